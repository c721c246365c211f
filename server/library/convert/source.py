"""A model that can be written as a GGUF file, wherever it comes from: metadata and tensors whose rows are read when
they are wanted.

In: an open GGUF file (`from_gguf`), or what `hugging_face.py` makes of safetensors. Out: `Source`. Nothing of a
tensor is held in memory.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType

from vkbackend.errors import VkbackendError
from vkbackend.gguf.quants import FORMATS
from vkbackend.gguf.reader import GGUFFile

from ..quantization import UNKNOWN, quantization_level

FLOATS = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)


class CannotConvert(VkbackendError):
    """Files that cannot become a model here, or values that a format cannot hold."""


@dataclass(frozen=True)
class Tensor:
    """`shape` is numpy order, `type` what it is written as where nobody asks for another.

    Rows are those of (prod(shape[:-1]), shape[-1]). values(first, last) -> f32 (last - first, shape[-1]), only where
    `is_float`; stored(first, last) -> the same rows as bytes of `type`.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    values: Callable[[int, int], np.ndarray]
    stored: Callable[[int, int], bytes]

    @property
    def is_float(self) -> bool:
        return self.type in FLOATS

    @property
    def width(self) -> int:
        return self.shape[-1]

    @property
    def num_rows(self) -> int:
        return int(np.prod(self.shape[:-1], dtype=np.int64))


@dataclass(frozen=True)
class Source:
    """`level`: its file type ("F16"). `pairs`: a GGUF's metadata, key -> the pair's bytes (`gguf_out.pair`).
    `release()` gives pages of the files behind it back to the system.
    """

    level: str
    pairs: dict[str, bytes]
    tensors: list[Tensor]
    release: Callable[[], None]


def from_gguf(gguf: GGUFFile) -> Source:
    pairs = {key: gguf.pair_bytes(key) for key in gguf.metadata}
    return Source(_level(gguf), pairs, [_of_gguf(gguf, info) for info in gguf.tensors.values()], gguf.release_pages)


def _level(gguf: GGUFFile) -> str:
    """The quantization level, by the matrices where the file does not say: writers of float32 files put 0 there,
    which counts as unknown.
    """
    level = quantization_level(gguf.metadata)
    kinds = {info.type.name for info in gguf.tensors.values() if len(info.shape) > 1}
    return kinds.pop() if level == UNKNOWN and len(kinds) == 1 else level


def _of_gguf(gguf: GGUFFile, info) -> Tensor:
    rows = gguf.data(info.name).reshape(int(np.prod(info.shape[:-1], dtype=np.int64)), -1)
    return Tensor(
        info.name,
        info.shape,
        info.type,
        lambda first, last: FORMATS[info.type].dequantize(rows[first:last]),
        lambda first, last: rows[first:last].tobytes(),
    )


def bf16_to_f32(halves: np.ndarray) -> np.ndarray:
    """uint16 -> f32 of the same shape: a bfloat16 is the upper half of a float32."""
    return (halves.astype(np.uint32) << 16).view(np.float32)
