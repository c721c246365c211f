"""A model to be written as a GGUF file: metadata, and tensors whose rows are read on demand.

In: an open GGUF file (`from_gguf`), or safetensors (`hugging_face.py`). Out: `Source`. No tensor is kept in memory.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType

from vkbackend.errors import VkbackendError
from vkbackend.gguf.quants import FORMATS
from vkbackend.gguf.reader import GGUFFile, TensorInfo

from ..quantization import UNKNOWN, quantization_level

FLOATS = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)


class CannotConvert(VkbackendError):
    """Files that cannot be converted to a model, or values that a format cannot hold."""


@dataclass(frozen=True)
class Tensor:
    """shape: in numpy order; type: type it is written as by default.

    Rows are those of (prod(shape[:-1]), shape[-1]). values(first, last) -> f32 (last - first, shape[-1]), only if
    `is_float`; stored(first, last) -> the same rows as bytes of `type`.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    values: Callable[[int, int], np.ndarray]
    stored: Callable[[int, int], bytes]

    @property
    def is_float(self) -> bool:
        """Whether the tensor is not quantized."""
        return self.type in FLOATS

    @property
    def width(self) -> int:
        """Elements per row."""
        return self.shape[-1]

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return int(np.prod(self.shape[:-1], dtype=np.int64))


@dataclass(frozen=True)
class Source:
    """level: file type ("F16"). pairs: GGUF metadata, key -> bytes of the pair (`gguf_out.pair`).

    release(): lets the system drop pages of the mapped files from memory.
    """

    level: str
    pairs: dict[str, bytes]
    tensors: list[Tensor]
    release: Callable[[], None]


def from_gguf(gguf: GGUFFile) -> Source:
    """The model in an open GGUF file."""
    pairs = {key: gguf.pair_bytes(key) for key in gguf.metadata}
    return Source(_level(gguf), pairs, [_of_gguf(gguf, info) for info in gguf.tensors.values()], gguf.release_pages)


def _level(gguf: GGUFFile) -> str:
    """Quantization level; from the matrices if the file does not say.

    Float32 files have file type 0, which counts as unknown.
    """
    level = quantization_level(gguf.metadata)
    kinds = {info.type.name for info in gguf.tensors.values() if len(info.shape) > 1}
    return kinds.pop() if level == UNKNOWN and len(kinds) == 1 else level


def _of_gguf(gguf: GGUFFile, info: TensorInfo) -> Tensor:
    rows = gguf.data(info.name).reshape(int(np.prod(info.shape[:-1], dtype=np.int64)), -1)
    return Tensor(
        info.name,
        info.shape,
        info.type,
        lambda first, last: FORMATS[info.type].dequantize(rows[first:last]),
        lambda first, last: rows[first:last].tobytes(),
    )


def bf16_to_f32(halves: np.ndarray) -> np.ndarray:
    """f32 of bfloat16 values given as uint16: a bfloat16 is the upper half of a float32."""
    return (halves.astype(np.uint32) << 16).view(np.float32)
