"""Opens GGUF files (versions 2 and 3, little endian) by mmap. Every length and offset is checked before it is used.

In: a path. Out: `GGUFFile` with typed metadata, tensor infos and zero-copy tensor bytes. Arrays of metadata are only
stepped over when a file is opened; they are decoded at each use and not kept. So a vocabulary of 262,144 strings costs
nothing until the tokenizer reads it. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from ..errors import GGUFError, UnsupportedModel
from .formats.mxfp4 import reordered
from .metadata import LENGTH, Decoder, Metadata, Numbers, Strings

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
VISION_PREFIXES = ("v.", "mm.")  # the image encoder of a model; it is not loaded, the model works on text without it
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 65535
# Types of metadata values.
BOOL = 7
STRING = 8
ARRAY = 9
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
# MXFP4 as Ollama wrote it before ggml had a number for it: neighboring elements share a byte.
FORMER_MXFP4 = 4


def damaged(path: Path, what: str) -> GGUFError:
    """The error for a file with wrong contents."""
    return GGUFError(f"{path} is damaged: {what}; download or convert the file again")


@dataclass(frozen=True)
class TensorInfo:
    """shape: in numpy order, rows first. offset: from the start of the file, in bytes. is_former: MXFP4 in the order
    of FORMER_MXFP4.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    num_bytes: int
    is_former: bool = False


class GGUFFile:
    """An open GGUF file. tensors: by name, in the order of the file."""

    @classmethod
    def open(cls, path: str | Path) -> "GGUFFile":
        """Raises GGUFError (not a GGUF file, cut short, contradictory), UnsupportedModel (unknown tensor type, part of
        a split file), OSError (unreadable).
        """
        return cls(Path(path))

    def __init__(self, path: Path):
        self.path = path
        self._map = _mapped(path)
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
        # A tensor info has at least 24 bytes, a pair at least 13.
        if num_tensors * 24 + num_pairs * 13 > len(self._map):
            raise damaged(
                path, f"it claims {num_tensors} tensors and {num_pairs} metadata pairs in {len(self._map)} bytes"
            )
        decoders: dict[str, Decoder] = {}
        self._pairs: dict[str, tuple[int, int]] = {}  # first byte and end of each in the file
        for _ in range(num_pairs):
            start = reader.at
            key = reader.string("a metadata key", MAX_NAME_BYTES)
            if key in decoders:
                raise damaged(path, f"metadata key {key} occurs twice")
            decoders[key] = reader.value(key)
            self._pairs[key] = start, reader.at
        self.metadata = Metadata(path, decoders)
        self.alignment = self.metadata.get("general.alignment", int, DEFAULT_ALIGNMENT)
        if self.alignment <= 0 or self.alignment & (self.alignment - 1):
            raise damaged(path, f"general.alignment is {self.alignment}, not a power of two")
        self._check_split()
        self.tensors = self._read_tensors(reader, num_tensors)

    def _check_split(self) -> None:
        """Raises UnsupportedModel if the file is one of several parts: the other tensors are in the other ones."""
        count = self.metadata.get("split.count", int, 0)
        number = self.metadata.get("split.no", int, 0)
        if count <= 1:
            return
        if not 0 <= number < count:
            raise damaged(self.path, f"it says that it is part {number + 1} of {count}")
        raise UnsupportedModel(
            f"{self.path} is part {number + 1} of {count} of a split GGUF, which cannot be loaded; merge the parts "
            "with llama.cpp's `llama-gguf-split --merge FIRST_PART.gguf MERGED.gguf` and use the merged file"
        )

    def _read_tensors(self, reader: "_Reader", num_tensors: int) -> dict[str, TensorInfo]:
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
        for name, shape, type_number, offset in raw:
            if name in tensors:
                raise damaged(self.path, f"tensor {name} occurs twice")
            tensors[name] = self._info(name, shape, type_number, offset, start)
        return tensors

    def _info(self, name: str, shape: tuple[int, ...], type_number: int, offset: int, start: int) -> TensorInfo:
        """start: first byte of the tensor data."""
        try:
            is_former = type_number == FORMER_MXFP4
            kind = GGMLQuantizationType.MXFP4 if is_former else GGMLQuantizationType(type_number)
        except ValueError:
            raise UnsupportedModel(
                f"{self.path}: tensor {name} has the unknown type {type_number}; update vkbackend or convert the model "
                f"again"
            ) from None
        block, block_bytes = GGML_QUANT_SIZES[kind]
        count = math.prod(shape)
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
        return TensorInfo(name, shape, kind, start + offset, num_bytes, is_former)

    def release_pages(self) -> None:
        """Release the file's pages in memory. The system reads them again when they are used."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def pair_bytes(self, key: str) -> bytes:
        """A metadata key with its type and value, as stored in the file."""
        start, end = self._pairs[key]
        return self._map[start:end]

    def data(self, name: str) -> np.ndarray:
        """A tensor's bytes as in the file: uint8, read-only, no copy, except for those of FORMER_MXFP4, which are put
        into ggml's order.
        """
        if name not in self.tensors:
            raise GGUFError(f"{self.path}: tensor {name} is missing")
        info = self.tensors[name]
        found = np.frombuffer(self._map, np.uint8, info.num_bytes, info.offset)
        return reordered(found) if info.is_former else found


def _mapped(path: Path) -> mmap.mmap:
    """Raises GGUFError, OSError."""
    status = path.stat()
    # Checked first: opening a pipe would wait for its writer. Opening a folder raises OSError.
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise GGUFError(f"{path} is not a GGUF file: it is not a plain file")
    if status.st_size < 24:
        raise GGUFError(f"{path} is not a GGUF file: it has only {status.st_size} bytes")
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Reader:
    """Reads the header from front to back, never past the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path = path
        self.data = data
        self.at = 0
        self.end = len(data)

    def skip(self, count: int, what: str = "the header") -> int:
        """Step over `count` bytes. Returns where they begin. Raises GGUFError if the file ends before."""
        at = self.at
        if count > self.end - at:
            raise GGUFError(
                f"{self.path} is cut short or damaged: {what} needs {count} bytes at {at}, the file has {self.end}"
            )
        self.at = at + count
        return at

    def take(self, count: int) -> bytes:
        at = self.skip(count)
        return self.data[at : at + count]

    def uint32(self) -> int:
        return struct.unpack_from("<I", self.data, self.skip(4))[0]

    def uint64(self) -> int:
        return struct.unpack_from("<Q", self.data, self.skip(8))[0]

    def string(self, what: str, limit: int = 1 << 40) -> str:
        length = self.uint64()
        if length > limit:
            raise damaged(self.path, f"{what} of {length} bytes")
        at = self.skip(length, what)
        return self.data[at : at + length].decode("utf-8", "replace")

    def value(self, key: str) -> Decoder:
        """Step over a value. Returns what decodes it."""
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

    def scalars(self, kind: int, count: int, key: str) -> np.ndarray:
        if kind not in SCALARS:
            raise damaged(self.path, f"metadata key {key} has value type {kind}")
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(self.data, dtype, count, self.skip(count * dtype.itemsize, f"the value of {key}"))

    def array(self, key: str) -> Decoder:
        kind, count = self.uint32(), self.uint64()
        if kind == ARRAY:
            raise UnsupportedModel(f"{self.path}: metadata key {key} is an array of arrays, which is not supported")
        if kind != STRING:
            return Numbers(self.scalars(kind, count, key), kind == BOOL)
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
        return Strings(data, start, at, count)
