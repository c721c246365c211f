"""An architecture's sizes and constants, read from the metadata of a GGUF file and checked.

In: an open `GGUFFile`. Out: numbers, with errors that name the key. Sizes are compared with the shapes of tensors
before anything is allocated by them.
"""

from typing import TypeVar

import numpy as np

from ..errors import GGUFError, UnsupportedModel
from ..gguf.reader import GGUFFile
from ..ops.route import MAX_EXPERTS, MAX_USED
from .weights import check_shape

LARGEST = 1 << 24  # above every real hyperparameter: a larger one would only show up as running out of memory

POOLINGS = ("none", "mean", "cls", "last", "rank")  # by number in the metadata

Number = TypeVar("Number", int, float)


class Hyperparameters:
    """Look-ups under the architecture's prefix: `get_int("block_count")` reads "llama.block_count"."""

    def __init__(self, gguf: GGUFFile):
        self.gguf = gguf
        self.architecture: str = gguf.metadata.get("general.architecture", str)

    def get_int(self, key: str, default: int | None = None, least: int = 1) -> int:
        """Raises GGUFError if the key is missing without a default, of another type, or not in least..LARGEST."""
        return self._within(key, self._get(key, int, default), least, LARGEST)

    def get_float(self, key: str, default: float | None = None, least: float = 0.0) -> float:
        """Raises GGUFError if the key is missing without a default, of another type, not finite, or below `least`."""
        return self._within(key, self._get(key, float, default), least, float(np.finfo(np.float32).max))

    def get_bool(self, key: str, default: bool) -> bool:
        """Raises GGUFError if the key is of another type."""
        return self.gguf.metadata.get(f"{self.architecture}.{key}", bool, default)

    def has_weight(self, name: str) -> bool:
        """Whether the file has the weight `name`, such as "blk.0.ffn_norm"."""
        return f"{name}.weight" in self.gguf.tensors

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding; 0 without one."""
        embedding = self.gguf.tensors.get("token_embd.weight")
        return embedding.shape[0] if embedding else 0

    def num_layers(self) -> int:
        """`block_count`. Raises GGUFError if the file lacks the tensors of the last layer, because making layers takes
        time and memory.
        """
        count = self.get_int("block_count")
        if not any(name.startswith(f"blk.{count - 1}.") for name in self.gguf.tensors):
            raise GGUFError(
                f"{self.gguf.path}: the tensors of blk.{count - 1} are missing, but the metadata says there are "
                f"{count} layers; the file is incomplete or badly converted"
            )
        return count

    def pooling(self) -> str:
        """How the hidden states of a text become its embedding, one of POOLINGS. Raises GGUFError."""
        number = self.get_int("pooling_type", 0, least=0)
        return POOLINGS[self._within("pooling_type", number, 0, len(POOLINGS) - 1)]

    def check_pooling(self, *known: str) -> None:
        """Raises UnsupportedModel for a pooling other than `known`."""
        if self.pooling() not in known:
            raise UnsupportedModel(
                f"{self.gguf.path}: {self.architecture} models with pooling {self.pooling()!r} are not implemented; "
                f"readable here: {', '.join(known)}"
            )

    def rope_scaling(self) -> tuple[str, float]:
        """The kind of scaling, "linear" or "yarn", and its factor; 1 for none, and for longrope, whose factors are
        tensors. Raises UnsupportedModel for other kinds.

        Defaults as in llama.cpp's loader (llama_model::load_hparams): scaling is linear if only a factor is given,
        older files call the factor `rope.scale_linear`, and a factor of 0 means no scaling.
        """
        kind = self.gguf.metadata.get(f"{self.architecture}.rope.scaling.type", str, "linear")
        if kind in ("none", "longrope"):
            return "linear", 1.0
        if kind not in ("linear", "yarn"):
            raise UnsupportedModel(
                f"{self.gguf.path}: rope scaling {kind!r} is not implemented; readable here: none, linear, yarn, "
                f"longrope"
            )
        return kind, self.get_float("rope.scaling.factor", self.get_float("rope.scale_linear", 0.0)) or 1.0

    def check_shapes(
        self, *, width: int, feed_forward: int, num_heads: int, num_kv_heads: int, key_length: int, value_length: int
    ) -> None:
        """Compare sizes with the tensors of the first layer, before they are used to allocate. Raises GGUFError."""
        for name, shape in (
            ("token_embd", (None, width)),
            ("blk.0.attn_qkv", (num_heads * key_length + num_kv_heads * (key_length + value_length), width)),
            ("blk.0.attn_q", (num_heads * key_length, width)),
            ("blk.0.attn_q_b", (num_heads * key_length, None)),
            ("blk.0.attn_k", (num_kv_heads * key_length, width)),
            ("blk.0.attn_v", (num_kv_heads * value_length, width)),
            ("blk.0.attn_output", (width, num_heads * value_length)),
            ("blk.0.ffn_gate", (feed_forward, width)),
        ):
            info = self.gguf.tensors.get(f"{name}.weight")
            if info:
                check_shape(self.gguf.path, info, shape)

    def get_rank(self, key: str, norm: str) -> int:
        """The number of elements of the tensor `norm`. Raises GGUFError if it is missing or `key` says another."""
        info = self.gguf.tensors.get(f"{norm}.weight")
        if info is None:
            raise GGUFError(f"{self.gguf.path}: tensor {norm}.weight is missing; the file is incomplete")
        rank = self.get_int(key)
        check_shape(self.gguf.path, info, (rank,))
        return rank

    def check_heads(self, num_heads: int, num_kv_heads: int, head_dim: int, num_rotated: int) -> None:
        """Raises GGUFError if these contradict each other."""
        if num_heads % num_kv_heads or num_rotated > head_dim or num_rotated % 2:
            raise GGUFError(
                f"{self.gguf.path} is damaged: {num_heads} heads of {head_dim}, of which {num_rotated} rotate, on "
                f"{num_kv_heads} key heads"
            )

    def gating(self, default: str) -> str:
        """How router logits become probabilities, "softmax" or "sigmoid". Raises UnsupportedModel for other kinds."""
        kind = self.get_int("expert_gating_func", 0, least=0)
        known = {0: default, 1: "softmax", 2: "sigmoid"}
        if kind not in known:
            raise UnsupportedModel(
                f"{self.gguf.path}: expert gating function {kind} is not implemented; readable here: 1 (softmax), 2 "
                f"(sigmoid)"
            )
        return known[kind]

    def check_groups(self, count: int, used: int, groups: int, groups_used: int) -> None:
        """Raises GGUFError unless the experts are in equal groups, and those used fit into the groups used."""
        if count % groups or count // groups * groups_used < used:
            raise GGUFError(
                f"{self.gguf.path} is damaged: each token uses {used} of {count} experts, in {groups_used} of {groups} "
                f"groups"
            )

    def check_experts(self, count: int, used: int) -> None:
        """Raises GGUFError if a token cannot use so many experts; UnsupportedModel for more than kernels take."""
        if used > count:
            raise GGUFError(f"{self.gguf.path} is damaged: each token uses {used} of {count} experts")
        if count > MAX_EXPERTS or used > MAX_USED:
            raise UnsupportedModel(
                f"{self.gguf.path}: {used} of {count} experts for each token; at most {MAX_USED} of {MAX_EXPERTS} are "
                f"implemented"
            )

    def _within(self, key: str, value: Number, least: Number, largest: Number) -> Number:
        if not least <= value <= largest:
            raise GGUFError(
                f"{self.gguf.path}: metadata key {self.architecture}.{key} is {value}; it must be {least} to "
                f"{largest}; the file is damaged or badly converted"
            )
        return value

    def _get(self, key: str, kind: type[Number], default: Number | None) -> Number:
        full, metadata = f"{self.architecture}.{key}", self.gguf.metadata
        if full in metadata and metadata.array_length(full) is not None:
            return self._same_in_all_layers(full, kind)
        return metadata.get(full, kind) if default is None else metadata.get(full, kind, default)

    def _same_in_all_layers(self, full: str, kind: type[Number]) -> Number:
        """The number that an array has for every layer. Raises GGUFError; UnsupportedModel if they differ."""
        values = self.gguf.metadata.get(full, list)
        num_layers = self.gguf.metadata.get(f"{self.architecture}.block_count", int)
        wanted = "iu" if kind is int else "iuf"
        if not isinstance(values, np.ndarray) or values.dtype.kind not in wanted:
            raise GGUFError(
                f"{self.gguf.path}: metadata key {full} is an array that holds no {kind.__name__}s; the file is "
                f"damaged or badly converted"
            )
        if len(values) != num_layers:
            raise GGUFError(
                f"{self.gguf.path}: metadata key {full} has {len(values)} values for {num_layers} layers; the file is "
                f"damaged or badly converted"
            )
        if (values != values[0]).any():
            raise UnsupportedModel(
                f"{self.gguf.path}: {full} differs from layer to layer ({values.min()} to {values.max()}), which is "
                f"not implemented; use a model whose layers are all alike"
            )
        return kind(values[0])
