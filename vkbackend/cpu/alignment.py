"""Copies of weights whose address in a mapped file is not one that ggml takes: files may align tensors to 8 bytes or
less.
"""

from collections.abc import Iterable

import numpy as np

from ..ops.packed import PackedMatrix
from .library import ggml, own_products

ALIGNMENT = 16  # bytes; of what ggml's products read


def is_aligned(raw: np.ndarray) -> bool:
    """Whether ggml can read a weight's rows where they are."""
    return raw.ctypes.data % ALIGNMENT == 0


def misaligned(factors: Iterable[PackedMatrix]) -> list[PackedMatrix]:
    """The weights that ggml multiplies by and cannot read where they are, each once. None without ggml: the kernels of
    `vkbackend._cpu`, which have none for experts, and numpy read any address.
    """
    if ggml() is None:
        return []
    own = own_products()
    return [
        matrix
        for matrix in dict.fromkeys(factors)
        if (matrix.format.name not in own or matrix.experts > 1) and not all(map(is_aligned, matrix.raws))
    ]


def align(factors: Iterable[PackedMatrix]) -> None:
    """Replace the rows of the `misaligned` weights by copies that ggml can read, which all uses of a weight share."""
    for matrix in misaligned(factors):
        matrix.raws = [raw if is_aligned(raw) else _copy(raw) for raw in matrix.raws]


def copied_bytes(factors: Iterable[PackedMatrix]) -> int:
    """Bytes that `align` copies."""
    return sum(raw.nbytes for matrix in misaligned(factors) for raw in matrix.raws if not is_aligned(raw))


def _copy(raw: np.ndarray) -> np.ndarray:
    """A copy that starts at a multiple of 64 bytes, a cache line."""
    room = np.empty(raw.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + raw.nbytes].reshape(raw.shape)
    copy[...] = raw
    return copy
