"""Opens safetensors files by mmap, with every length and offset checked before it is used.

In: paths. Out: `SafetensorsFile` with `tensors` (name -> `StoredTensor`), whose rows come as float32. The file:
eight bytes of length, that many bytes of JSON (name -> dtype, shape, data_offsets), the tensors' bytes.
https://github.com/huggingface/safetensors#format
"""

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType

from .source import CannotConvert, bf16_to_f32

MAX_HEADER_BYTES = 100 << 20  # what the original reader takes
MAX_DIMENSIONS = 4
# dtype -> how its elements are read, what they are in a GGUF
DTYPES = {
    "F32": ("<f4", GGMLQuantizationType.F32),
    "F16": ("<f2", GGMLQuantizationType.F16),
    "BF16": ("<u2", GGMLQuantizationType.BF16),
}


@dataclass(frozen=True)
class StoredTensor:
    """`shape` as in the file (rows first); `elements`: a view of the file, (rows, shape[-1]) of f32, f16 or
    (bfloat16) u16.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    elements: np.ndarray

    def rows(self, which) -> np.ndarray:
        """which: a slice or an array of row numbers -> f32 (rows, shape[-1])."""
        values = self.elements[which]
        return bf16_to_f32(values) if self.type is GGMLQuantizationType.BF16 else values.astype(np.float32)


class SafetensorsFile:
    """`name`: what the user calls the file. Raises CannotConvert for a file that is none, or holds what is no F32,
    F16 or BF16.
    """

    def __init__(self, path: Path, name: str):
        self.name = name
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            if size < 8:
                raise self._damaged(f"{size} bytes are too few")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header_bytes = int.from_bytes(self._map[:8], "little")
        if header_bytes > min(MAX_HEADER_BYTES, size - 8):
            raise self._damaged(f"its header claims {header_bytes} bytes, the file has {size}")
        try:
            header = json.loads(self._map[8 : 8 + header_bytes])
        except (ValueError, RecursionError):
            raise self._damaged("its header is not JSON") from None
        if not isinstance(header, dict):
            raise self._damaged("its header is no JSON object")
        self._data = np.frombuffer(self._map, np.uint8, offset=8 + header_bytes)
        self.tensors = {key: self._tensor(key, entry) for key, entry in header.items() if key != "__metadata__"}

    def _damaged(self, what: str) -> CannotConvert:
        return CannotConvert(f"{self.name} is no safetensors file, or damaged: {what}; download it again")

    def _tensor(self, key, entry) -> StoredTensor:
        try:
            dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            whole = type(dtype) is str and all(
                type(number) is int and 0 <= number < 1 << 48 for number in (*shape, start, end)
            )
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole or math.prod(shape) >= 1 << 48 or not start <= end <= len(self._data):
            raise self._damaged(f"tensor {key} is described as {str(entry)[:200]}")
        if dtype not in DTYPES:
            raise CannotConvert(
                f"{self.name}: tensor {key} is {dtype}; readable here: {', '.join(DTYPES)}. Models that are quantized "
                f"already "
                "(bitsandbytes, GPTQ, AWQ, FP8) cannot be converted: take the original"
            )
        if not 1 <= len(shape) <= MAX_DIMENSIONS or 0 in shape:
            raise CannotConvert(
                f"{self.name}: tensor {key} has shape {shape}; 1 to {MAX_DIMENSIONS} dimensions, none of them 0, can "
                f"be converted"
            )
        kind, ggml_type = DTYPES[dtype]
        if end - start != math.prod(shape) * np.dtype(kind).itemsize:
            raise self._damaged(f"tensor {key} ({dtype}, shape {shape}) takes {end - start} bytes")
        elements = np.frombuffer(self._data[start:end].data, kind).reshape(-1, shape[-1])
        return StoredTensor(key, shape, ggml_type, elements)

    def release_pages(self) -> None:
        """Give the file's pages back to the system, which reads them again where they are wanted after all."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
