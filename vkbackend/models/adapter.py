"""LoRA adapters: GGUF files with pairs of matrices A and B that change weights of a model, W + scale * B A (Hu et al.
2021, https://arxiv.org/abs/2106.09685).

In: a path and the model's architecture. Out: an `AdapterFile`, whose pairs `weights.Weights` turns into layers.
Layout: that of llama.cpp's convert_lora_to_gguf.py.
"""

import logging
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from ..errors import GGUFError, UnsupportedModel
from ..gguf.quants import FORMATS
from ..gguf.reader import GGUFFile, TensorInfo
from .axes import Axis, Stack

Sizes = tuple[Axis | Stack, Axis | Stack]  # rows and columns of a matrix
SUFFIXES = A, B = ".lora_a", ".lora_b"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A: (rank, columns), or (vocabulary, rank) for an embedding. B: (rows, rank)."""

    a: TensorInfo
    b: TensorInfo
    scale: float

    @property
    def rank(self) -> int:
        """Columns of B."""
        return self.b.shape[1]


@dataclass(frozen=True)
class AdapterFile:
    """An open adapter. pairs: by the name of the weight that they change, such as "blk.0.attn_q.weight"."""

    gguf: GGUFFile
    pairs: dict[str, Pair]

    @classmethod
    def open(cls, path: str | Path, architecture: str) -> "AdapterFile":
        """Open an adapter for a model of `architecture`. Raises GGUFError (not an adapter, unreadable, incomplete),
        UnsupportedModel (another kind of adapter, for another architecture, or in types without kernels).
        """
        try:
            gguf = GGUFFile.open(path)
        except OSError as error:
            raise GGUFError(f"the adapter {path} cannot be read ({error.strerror or error})") from None
        _check_kind(gguf, architecture)
        alpha = gguf.metadata.get("adapter.lora.alpha", float, 0.0)
        return cls(gguf, {name: _pair(gguf, name, alpha) for name in _names(gguf)})

    @property
    def tensors(self) -> list[TensorInfo]:
        """The tensors of all pairs."""
        return [info for pair in self.pairs.values() for info in (pair.a, pair.b)]

    def check_shapes(self, name: str, a: Sizes, b: Sizes) -> None:
        """Raises GGUFError if a matrix of a pair has another shape than its weight needs."""
        pair = self.pairs[name]
        for info, sizes in ((pair.a, a), (pair.b, b)):
            expected = tuple(axis.size for axis in sizes)
            if info.shape != expected:
                raise GGUFError(
                    f"the adapter {self.gguf.path}: {info.name} has shape {info.shape}, but the model's {name} needs "
                    f"{expected}; the adapter was made for another model"
                )

    def check_used(self, used: Container[str], tensors: Container[str]) -> None:
        """Raises GGUFError if a pair changes none of the model's `tensors`, UnsupportedModel if it is not among those
        that layers `used`.
        """
        for name in self.pairs:
            if name not in used and name not in tensors:
                raise GGUFError(
                    f"the adapter {self.gguf.path} changes {name}, which the model does not have; it was made for "
                    "another model"
                )
            if name not in used:
                raise UnsupportedModel(
                    f"the adapter {self.gguf.path} changes {name}, which is not supported; supported are matrices of "
                    "attention and dense feed-forward, the embedding, and the output"
                )


def _check_kind(gguf: GGUFFile, architecture: str) -> None:
    kind = gguf.metadata.get("general.type", str, "")
    if kind != "adapter":
        raise GGUFError(f"unable to load model: {gguf.path} is not an adapter: its general.type is {kind!r}")
    kind = gguf.metadata.get("adapter.type", str, "")
    if kind != "lora":
        raise UnsupportedModel(f"the adapter {gguf.path} has the type {kind!r}; supported is 'lora'")
    made_for = gguf.metadata.get("general.architecture", str, "")
    if made_for != architecture:
        raise UnsupportedModel(
            f"the adapter {gguf.path} was made for the architecture {made_for!r}, but the model has {architecture!r}"
        )


def _names(gguf: GGUFFile) -> list[str]:
    """The weights that the adapter changes. Whole norms, which some files include, are left out, as in llama.cpp."""
    names: dict[str, None] = {}
    for name in gguf.tensors:
        if name.endswith(SUFFIXES):
            names[name.removesuffix(A).removesuffix(B)] = None
        elif name.endswith("_norm.weight"):
            log.warning("the adapter %s has the norm %s, which is not applied", gguf.path, name)
        else:
            raise UnsupportedModel(
                f"the adapter {gguf.path} has the tensor {name}; supported are pairs that end in {A} and {B}"
            )
    return list(names)


def _pair(gguf: GGUFFile, name: str, alpha: float) -> Pair:
    for suffix, other in ((A, B), (B, A)):
        if name + suffix not in gguf.tensors:
            raise GGUFError(f"the adapter {gguf.path} has {name}{other} without {name}{suffix}; convert it again")
    a, b = (gguf.tensors[name + suffix] for suffix in SUFFIXES)
    for info in (a, b):
        if len(info.shape) != 2:
            raise UnsupportedModel(
                f"the adapter {gguf.path}: {info.name} has shape {info.shape}; supported are matrices"
            )
        if info.type not in FORMATS:
            raise UnsupportedModel(
                f"the adapter {gguf.path}: {info.name} is {info.type.name}; readable here: "
                f"{', '.join(kind.name for kind in FORMATS)}"
            )
    return Pair(a, b, alpha / b.shape[1] if alpha else 1.0)
