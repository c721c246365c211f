"""Opens safetensors files by mmap, checking every length and offset before use.

In: paths. Out: `SafetensorsFile` with `tensors` (name -> `StoredTensor`), whose rows are read as float32. Format:
eight bytes of header size, a JSON header (name -> dtype, shape, data_offsets), the tensors' bytes.
https://github.com/huggingface/safetensors#format
"""

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from .source import CannotConvert, bf16_to_f32

MAX_HEADER_BYTES = 100 << 20  # limit of the original reader
MAX_DIMENSIONS = 4
# dtype -> (numpy dtype for reading, type in a GGUF)
DTYPES = {
    "F32": ("<f4", GGMLQuantizationType.F32),
    "F16": ("<f2", GGMLQuantizationType.F16),
    "BF16": ("<u2", GGMLQuantizationType.BF16),
}


@dataclass(frozen=True)
class StoredTensor:
    """shape: as in the file, rows first. elements: view of it, (rows, shape[-1]) of f32, f16 or u16 (bfloat16)."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    elements: np.ndarray

    def rows(self, which: slice | np.ndarray) -> np.ndarray:
        """Rows of a slice, or with the given numbers, as f32 (rows, shape[-1])."""
        values = self.elements[which]
        return bf16_to_f32(values) if self.type is GGMLQuantizationType.BF16 else values.astype(np.float32)


class SafetensorsFile:
    """An open file; `name`: as the user calls it.

    Raises CannotConvert for an invalid file, and for tensors other than F32, F16 and BF16.
    """

    def __init__(self, path: Path, name: str):
        self.name = name
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            if size < 8:
                raise self._damaged(f"it has only {size} bytes")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header_bytes = int.from_bytes(self._map[:8], "little")
        if header_bytes > min(MAX_HEADER_BYTES, size - 8):
            raise self._damaged(f"its header claims {header_bytes} bytes, the file has {size}")
        try:
            header = json.loads(self._map[8 : 8 + header_bytes])
        except (ValueError, RecursionError):
            raise self._damaged("its header is not JSON") from None
        if not isinstance(header, dict):
            raise self._damaged("its header is not a JSON object")
        self._data = np.frombuffer(self._map, np.uint8, offset=8 + header_bytes)
        self.tensors = {key: self._tensor(key, entry) for key, entry in header.items() if key != "__metadata__"}

    def _damaged(self, what: str) -> CannotConvert:
        return CannotConvert(f"{self.name} is not a safetensors file, or damaged: {what}; download it again")

    def _tensor(self, key: str, entry: Any) -> StoredTensor:
        try:
            dtype, shape, start, end = self._described(entry)
        except (KeyError, TypeError, ValueError):
            raise self._damaged(f"tensor {key} is described as {str(entry)[:200]}") from None
        if dtype not in DTYPES:
            raise CannotConvert(
                f"{self.name}: tensor {key} is {dtype}; supported: {', '.join(DTYPES)}. Quantized models "
                "(bitsandbytes, GPTQ, AWQ, FP8) cannot be converted; use the original model"
            )
        if not 1 <= len(shape) <= MAX_DIMENSIONS or 0 in shape:
            raise CannotConvert(
                f"{self.name}: tensor {key} has shape {shape}; supported are 1 to {MAX_DIMENSIONS} dimensions, none 0"
            )
        kind, ggml_type = DTYPES[dtype]
        if end - start != math.prod(shape) * np.dtype(kind).itemsize:
            raise self._damaged(f"tensor {key} ({dtype}, shape {shape}) takes {end - start} bytes")
        elements = np.frombuffer(self._data[start:end].data, kind).reshape(-1, shape[-1])
        return StoredTensor(key, shape, ggml_type, elements)

    def _described(self, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
        """(dtype, shape, start, end) of a header entry. Raises KeyError, TypeError or ValueError if it is invalid."""
        dtype = entry["dtype"]
        shape = tuple(entry["shape"])
        start, end = entry["data_offsets"]
        is_valid = isinstance(dtype, str) and all(
            type(number) is int and 0 <= number < 1 << 48 for number in (*shape, start, end)
        )
        if not is_valid or math.prod(shape) >= 1 << 48 or not start <= end <= len(self._data):
            raise ValueError
        return dtype, shape, start, end

    def release_pages(self) -> None:
        """Let the system drop the file's pages from memory; it reads them again if needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
