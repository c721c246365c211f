"""Opens GGUF files (version 2 and 3, little endian) by mmap, with every length and offset checked before it is used.

In: a path. Out: `GGUFFile` with typed metadata, tensor infos and zero-copy tensor bytes. Arrays of metadata are only
walked at opening and decoded where they are asked for, and not kept: a vocabulary of 262,144 strings costs nothing
until the tokenizer asks for it. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from ..errors import GGUFError, UnsupportedModel

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 65535
STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "<u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
FORMER_TYPES = {4: GGMLQuantizationType(39)}  # MXFP4, as Ollama numbered it before ggml had a number for it
REQUIRED = object()
LENGTH = struct.Struct("<Q")


def damaged(path, what: str) -> GGUFError:
    return GGUFError(f"{path} is damaged: {what}; download or convert the file again")


@dataclass(frozen=True)
class TensorInfo:
    """shape is numpy order: rows first, elements of a row last. offset counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    num_bytes: int


class Metadata(Mapping):
    """Key -> value; arrays are decoded anew on each use. `get(key, kind)` also checks the type."""

    def __init__(self, path, spans):
        self._path, self._spans = path, spans

    def __getitem__(self, key):
        return self._spans[key]()

    def __iter__(self):
        return iter(self._spans)

    def __len__(self):
        return len(self._spans)

    def __contains__(self, key):
        return key in self._spans

    def array_length(self, key) -> int | None:
        """How many elements an array has, without decoding it; None for a value that is no array."""
        span = self._spans[key]
        return span.length if isinstance(span, (_Numbers, _Strings)) else None

    def get(self, key, kind=None, default=REQUIRED):
        """The value of `key`, checked to be of `kind` (int, float, str, bool, list). An int serves as a float.

        Without a default the key must be there. Raises GGUFError naming the key where it is missing or of another type.
        """
        if key not in self._spans:
            if default is REQUIRED:
                raise self._missing(key)
            return default
        value = self[key]
        if kind is None or isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
        if kind is float and isinstance(value, int):
            return float(value)
        if kind is list and isinstance(value, np.ndarray):
            return value
        raise self._mistyped(key, kind.__name__)

    def strings(self, key) -> list[bytes]:
        """The array of strings under `key`, each as it stands in the file: UTF-8, if the file is sound. Raises
        GGUFError as `get` does.
        """
        if key not in self._spans:
            raise self._missing(key)
        span = self._spans[key]
        if not isinstance(span, _Strings):
            raise self._mistyped(key, "an array of strings")
        return span.pieces()

    def _missing(self, key) -> GGUFError:
        return GGUFError(
            f"{self._path}: metadata key {key} is missing; convert the model again with a current converter"
        )

    def _mistyped(self, key, wanted: str) -> GGUFError:
        return GGUFError(
            f"{self._path}: metadata key {key} is {type(self[key]).__name__}, not {wanted}; the file is damaged or "
            f"badly converted"
        )


class GGUFFile:
    """An open GGUF file. `path`, `version`, `metadata`, `tensors` (name -> TensorInfo, in the file's order)."""

    @classmethod
    def open(cls, path) -> "GGUFFile":
        """Raises GGUFError (not a GGUF, cut short, contradictory), UnsupportedModel (unknown tensor type, part of a
        split file), OSError (unreadable).
        """
        return cls(Path(path))

    def __init__(self, path: Path):
        self.path, status = path, path.stat()
        # Opening a pipe would wait for its writer.
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise GGUFError(f"{path} is not a GGUF file: it is not a plain file")
        if status.st_size < 24:
            raise GGUFError(f"{path} is not a GGUF file: {status.st_size} bytes are too few")
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = _Reader(path, self._map)
        if reader.take(4) != MAGIC:
            raise GGUFError(f"{path} is not a GGUF file: it does not begin with 'GGUF'")
        self.version = reader.uint32()
        if self.version not in (2, 3):
            hint = (
                "it is big-endian or damaged" if self.version > 0xFFFF else "convert it again with a current converter"
            )
            raise GGUFError(f"{path} is GGUF version {self.version}; readable here: 2, 3; {hint}")
        num_tensors, num_pairs = reader.uint64(), reader.uint64()
        # The smallest tensor info takes 24 bytes, the smallest pair 13: larger counts cannot be true.
        if num_tensors * 24 + num_pairs * 13 > len(self._map):
            raise damaged(
                path, f"it claims {num_tensors} tensors and {num_pairs} metadata pairs in {len(self._map)} bytes"
            )
        spans, self._pairs = {}, {}
        for _ in range(num_pairs):
            start, key = reader.at, reader.string("a metadata key", MAX_NAME_BYTES)
            if key in spans:
                raise damaged(path, f"metadata key {key} stands twice")
            spans[key] = reader.value(key)
            self._pairs[key] = start, reader.at
        self.metadata = Metadata(path, spans)
        self.alignment = self.metadata.get("general.alignment", int, DEFAULT_ALIGNMENT)
        if self.alignment <= 0 or self.alignment & (self.alignment - 1):
            raise damaged(path, f"general.alignment is {self.alignment}, not a power of two")
        self._check_split()
        self.tensors = self._read_tensors(reader, num_tensors)

    def _check_split(self) -> None:
        """Raises UnsupportedModel for one of several parts: the others hold the rest of the tensors."""
        count, number = self.metadata.get("split.count", int, 0), self.metadata.get("split.no", int, 0)
        if count <= 1:
            return
        if not 0 <= number < count:
            raise damaged(self.path, f"it says that it is part {number + 1} of {count}")
        raise UnsupportedModel(
            f"{self.path} is part {number + 1} of {count} of a split GGUF, which cannot be loaded; merge the parts "
            f"with "
            "llama.cpp's `llama-gguf-split --merge FIRST_PART.gguf MERGED.gguf` and use the merged file"
        )

    def _read_tensors(self, reader, num_tensors) -> dict[str, TensorInfo]:
        raw = []
        for _ in range(num_tensors):
            name = reader.string("a tensor name", MAX_NAME_BYTES)
            num_dimensions = reader.uint32()
            if not 1 <= num_dimensions <= MAX_DIMENSIONS:
                raise damaged(
                    self.path, f"tensor {name} has {num_dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible"
                )
            shape = tuple(reader.uint64() for _ in range(num_dimensions))[::-1]
            raw.append((name, shape, reader.uint32(), reader.uint64()))
        start = -(-reader.at // self.alignment) * self.alignment
        tensors = {}
        for name, shape, kind, offset in raw:
            if name in tensors:
                raise damaged(self.path, f"tensor {name} stands twice")
            tensors[name] = self._info(name, shape, kind, offset, start)
        return tensors

    def _info(self, name, shape, kind, offset, start) -> TensorInfo:
        try:
            kind = GGMLQuantizationType(FORMER_TYPES.get(kind, kind))
        except ValueError:
            raise UnsupportedModel(
                f"{self.path}: tensor {name} has type {kind}, which is unknown here; update vkbackend or convert the "
                f"model again"
            ) from None
        block, block_bytes = GGML_QUANT_SIZES[kind]
        count = 1
        for size in shape:
            count *= size
        if min(shape) == 0 or count >= 1 << 48:
            raise damaged(self.path, f"tensor {name} has shape {shape}")
        if shape[-1] % block:
            raise damaged(self.path, f"tensor {name} ({kind.name}) has rows of {shape[-1]}, not a multiple of {block}")
        num_bytes = count // block * block_bytes
        if offset % self.alignment:
            raise damaged(self.path, f"tensor {name} begins at {offset}, which is not aligned to {self.alignment}")
        if start + offset + num_bytes > len(self._map):
            raise GGUFError(
                f"{self.path} is cut short: tensor {name} needs bytes {start + offset}..{start + offset + num_bytes}, "
                f"the file has {len(self._map)}; download it again"
            )
        return TensorInfo(name, shape, kind, start + offset, num_bytes)

    def release_pages(self) -> None:
        """Give the file's pages back to the system, which reads them again where they are wanted after all."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def pair_bytes(self, key: str) -> bytes:
        """A key of the metadata with its type and value, as they stand in the file."""
        start, end = self._pairs[key]
        return self._map[start:end]

    def data(self, name: str) -> np.ndarray:
        """A tensor's bytes as in the file: uint8, read-only, no copy."""
        if name not in self.tensors:
            raise GGUFError(f"{self.path}: tensor {name} is missing")
        info = self.tensors[name]
        return np.frombuffer(self._map, np.uint8, info.num_bytes, info.offset)


class _Numbers:
    """An array of numbers or bools."""

    def __init__(self, numbers: np.ndarray, is_bool: bool):
        self._numbers, self._is_bool, self.length = numbers, is_bool, len(numbers)

    def __call__(self):
        return self._numbers.astype(bool).tolist() if self._is_bool else self._numbers


class _Strings:
    """An array of strings: `data` from `start` to `end`, before each its length in eight bytes, as the reader has
    checked.
    """

    def __init__(self, data, start: int, end: int, length: int):
        self._data, self._start, self._end, self.length = data, start, end, length

    def __call__(self):
        return [piece.decode("utf-8", "replace") for piece in self.pieces()]

    def pieces(self) -> list[bytes]:
        unpack, whole, at, pieces = LENGTH.unpack_from, self._data[self._start : self._end], 0, []
        for _ in range(self.length):
            end = at + 8 + unpack(whole, at)[0]
            pieces.append(whole[at + 8 : end])
            at = end
        return pieces


class _Reader:
    """Walks the header; nothing is read past the end of the file."""

    def __init__(self, path, data):
        self.path, self.data, self.at, self.end = path, data, 0, len(data)

    def need(self, count: int, what: str = "the header") -> int:
        """-> where the next `count` bytes begin, having stepped over them."""
        at = self.at
        if count > self.end - at:
            raise GGUFError(
                f"{self.path} is cut short or damaged: {what} needs {count} bytes at {at}, the file has {self.end}"
            )
        self.at = at + count
        return at

    def take(self, count: int) -> bytes:
        at = self.need(count)
        return self.data[at : at + count]

    def uint32(self) -> int:
        return struct.unpack_from("<I", self.data, self.need(4))[0]

    def uint64(self) -> int:
        return struct.unpack_from("<Q", self.data, self.need(8))[0]

    def string(self, what: str, limit: int = 1 << 40) -> str:
        length = self.uint64()
        if length > limit:
            raise damaged(self.path, f"{what} of {length} bytes")
        at = self.need(length, what)
        return self.data[at : at + length].decode("utf-8", "replace")

    def value(self, key):
        """Step over a value; -> a function that decodes it."""
        kind = self.uint32()
        if kind == STRING:
            text = self.string(f"the value of {key}")
            return lambda: text
        if kind == ARRAY:
            return self.array(key)
        number = self.scalars(kind, 1, key)[0].item()
        if kind == BOOL:
            number = bool(number)
        return lambda: number

    def scalars(self, kind, count, key) -> np.ndarray:
        if kind not in SCALARS:
            raise damaged(self.path, f"metadata key {key} has value type {kind}")
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(self.data, dtype, count, self.need(count * dtype.itemsize, f"the value of {key}"))

    def array(self, key):
        kind, count = self.uint32(), self.uint64()
        if kind == ARRAY:
            raise UnsupportedModel(f"{self.path}: metadata key {key} is an array of arrays, which is not readable here")
        if kind != STRING:
            return _Numbers(self.scalars(kind, count, key), kind == BOOL)
        start, data, end, at = self.at, self.data, self.end, self.at
        if count * 8 > end - at:
            raise GGUFError(
                f"{self.path} is cut short or damaged: {key} claims {count} strings; download or convert the file again"
            )
        unpack = LENGTH.unpack_from
        for _ in range(count):
            if at + 8 > end:
                break
            at += 8 + unpack(data, at)[0]
        if at > end or count and at == start:
            raise GGUFError(f"{self.path} is cut short or damaged: the strings of {key} run past the end of the file")
        self.at = at
        return _Strings(data, start, at, count)
