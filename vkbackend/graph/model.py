"""What executors expect of a model. Architectures provide it; nothing here knows them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .builder import Graph, Kind, Value


@dataclass(frozen=True, kw_only=True)
class Config:
    """The sizes that every architecture's `Config` has, and whether its embeddings have unit length."""

    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    feed_forward: int
    context_length: int
    vocab_size: int
    norm_eps: float
    routed_elements: int = 0  # that a token's experts make, before they are added up
    unit_embeddings: bool = False

    @property
    def hidden_size(self) -> int:
        """Elements of a hidden state, without the zeros at its end that kernels need."""
        return self.width

    def window_of(self, layer: int) -> int:
        """The number of positions that a token sees in a layer, its own included; 0: all."""
        return 0

    def limited(self, context_length: int) -> int:
        """`context_length`, or fewer tokens if the model cannot tell so many positions apart."""
        return context_length


@dataclass(frozen=True)
class LayerCache:
    """The KV cache of one layer.

    keys, values: (pages, page_size, kv_heads, head_dim). page_table: (S, P) i32, which page holds which positions.
    """

    keys: Value
    values: Value
    page_table: Value


class Caches(Protocol):
    """The KV caches of a step, by layer."""

    @property
    def context_length(self) -> int:
        """Tokens that one sequence may have."""
        ...

    def cache(self, graph: Graph, layer: int) -> LayerCache:
        """The cache of one layer."""
        ...


class Norm(Protocol):
    """A norm of rows, of whatever kind."""

    def __call__(self, x: Value, *, name: str, kind: Kind) -> Value:
        """The normalized rows: a new value with this name and kind."""
        ...


class Model(Protocol):
    """A forward pass on symbolic values."""

    @property
    def output_norm(self) -> Norm:
        """The norm before the logits."""
        ...

    def __call__(self, graph: Graph, caches: Caches, /) -> Value:
        """The hidden states (T, width) of the step's tokens."""
        ...

    def logits(self, x: Value) -> Value:
        """Hidden states (M, width) -> logits (M, vocabulary)."""
        ...


class LayeredModel(Model, Protocol):
    """A model whose layers can be called one by one, so that they can be in several places."""

    @property
    def embed(self) -> Callable[[Graph], Value]:
        """From a graph to the hidden states before the first layer, (T, width)."""
        ...

    @property
    def blocks(self) -> Sequence[Callable[[Value, Caches], Value]]:
        """The layers in order: each maps hidden states (T, width) to hidden states."""
        ...
