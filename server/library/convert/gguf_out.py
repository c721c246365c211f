"""Writes a GGUF file in pieces of some rows, so that memory does not grow with the model.

In: a `Source`, types of tensors, and a function that takes bytes. Out: a GGUF of version 3, tensors sorted by name.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import libgguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from vkbackend.device.host_memory import usable_cores

from .source import CannotConvert, Source, Tensor

ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
PIECE_ELEMENTS = 1 << 19  # elements converted at a time: 2 MiB of float32 per thread
MAX_PENDING = 8  # pieces computed ahead of the writer
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
Value: TypeAlias = str | bool | int | float | list[str] | np.ndarray
_ARRAY_TYPES = {"float32": FLOAT32, "int32": INT32, "bool": BOOL, "uint32": UINT32}


def pair(key: str, value: Value) -> bytes:
    """Bytes of a metadata pair. An int is stored as u32, a float as f32; arrays are of f32, i32, u32 or bool."""
    return _text(key) + _value(value)


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<IB", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, np.ndarray):
        return struct.pack("<IIQ", ARRAY, _ARRAY_TYPES[value.dtype.name], len(value)) + value.tobytes()
    return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(_text(text) for text in value)


def num_bytes(tensor: Tensor, kind: GGMLQuantizationType) -> int:
    """Bytes of `tensor` stored as `kind`."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return tensor.num_rows * (tensor.width // block) * block_bytes


def total_bytes(source: Source, types: dict[str, GGMLQuantizationType]) -> int:
    """Bytes of all tensors with the given types (by name; others keep their own)."""
    return sum(num_bytes(tensor, types.get(tensor.name, tensor.type)) for tensor in source.tensors)


def write(
    source: Source,
    types: dict[str, GGMLQuantizationType],
    take: Callable[[bytes], None],
    progress: Callable[[int], None],
) -> None:
    """Pass the file's bytes to `take` in order, and the bytes of tensors done to `progress`. Raises CannotConvert."""
    tensors = sorted(source.tensors, key=lambda tensor: tensor.name)
    header = _header(source, tensors, types)
    take(header + bytes(-len(header) % ALIGNMENT))
    done = 0
    with ThreadPoolExecutor(usable_cores()) as pool:
        for tensor in tensors:
            written = 0
            for piece in _pieces(tensor, types.get(tensor.name, tensor.type), pool):
                take(piece)
                written += len(piece)
                progress(done + written)
            done += written
            take(bytes(-written % ALIGNMENT))
            source.release()


def _header(source: Source, tensors: list[Tensor], types: dict[str, GGMLQuantizationType]) -> bytes:
    pairs = [raw for key, raw in source.pairs.items() if key != ALIGNMENT_KEY]
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(pairs)), *pairs]
    offset = 0
    for tensor in tensors:
        kind = types.get(tensor.name, tensor.type)
        shape = tensor.shape[::-1]
        parts.append(_text(tensor.name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        offset += -(-num_bytes(tensor, kind) // ALIGNMENT) * ALIGNMENT
    return b"".join(parts)


def _pieces(tensor: Tensor, kind: GGMLQuantizationType, pool: ThreadPoolExecutor) -> Iterator[bytes]:
    """The tensor's bytes as `kind`, converted in parallel, with at most MAX_PENDING finished pieces waiting."""
    step = max(1, PIECE_ELEMENTS // tensor.width)
    ranges = [(first, min(first + step, tensor.num_rows)) for first in range(0, tensor.num_rows, step)]

    def convert(first: int, last: int) -> bytes:
        if kind is tensor.type:
            return tensor.stored(first, last)
        return encode(tensor.values(first, last), kind, tensor.name)

    waiting: deque[Future[bytes]] = deque()
    for rows in ranges:
        waiting.append(pool.submit(convert, *rows))
        if len(waiting) > MAX_PENDING:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def encode(values: np.ndarray, kind: GGMLQuantizationType, name: str) -> bytes:
    """Bytes of f32 (rows, width) as `kind`. Raises CannotConvert for values that the type cannot hold."""
    if not np.isfinite(values).all():
        raise CannotConvert(f"tensor {name} has values that are not finite; the files are damaged, download them again")
    if kind is GGMLQuantizationType.F16:
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.isfinite(halves).all():
            raise CannotConvert(
                f"tensor {name} has a value of {np.abs(values).max():g}, too large for float16; quantize the model "
                "to another type"
            )
        return halves.tobytes()
    return values.tobytes() if kind is GGMLQuantizationType.F32 else libgguf.quantize_rows(values, kind).tobytes()
