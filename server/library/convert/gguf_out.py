"""Writes a GGUF file piece by piece, so that a model of any size takes no more memory than some of its rows.

In: a `Source`, the type that each tensor is to have, and a function that takes bytes. Out: a GGUF of version 3,
tensors sorted by name. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import libgguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from vkbackend.device.host_memory import usable_cores

from .source import CannotConvert, Source, Tensor

ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
PIECE_ELEMENTS = 1 << 19  # of a tensor at a time: two megabytes of float32 for each thread
AHEAD = 8  # pieces that may be finished before the first of them is taken
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
_ARRAY_TYPES = {"float32": FLOAT32, "int32": INT32, "bool": BOOL, "uint32": UINT32}


def pair(key: str, value) -> bytes:
    """A metadata pair. value: str, bool, int (32 bits without sign), float (32 bits), a list of str, or a numpy
    array of f32, i32, u32 or bool.
    """
    return _text(key) + _value(value)


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def _value(value) -> bytes:
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
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return tensor.num_rows * (tensor.width // block) * block_bytes


def total_bytes(source: Source, types: dict[str, GGMLQuantizationType]) -> int:
    """Of all tensors once they are written as `types` (by name; others stay what they are)."""
    return sum(num_bytes(tensor, types.get(tensor.name, tensor.type)) for tensor in source.tensors)


def write(
    source: Source,
    types: dict[str, GGMLQuantizationType],
    take: Callable[[bytes], None],
    progress: Callable[[int], None],
) -> None:
    """`take` gets the file's bytes in order; `progress` how many bytes of tensors are done. Raises CannotConvert."""
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


def _header(source, tensors, types) -> bytes:
    pairs = [raw for key, raw in source.pairs.items() if key != ALIGNMENT_KEY]
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(pairs)), *pairs]
    offset = 0
    for tensor in tensors:
        kind = types.get(tensor.name, tensor.type)
        shape = tensor.shape[::-1]
        parts.append(_text(tensor.name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        offset += -(-num_bytes(tensor, kind) // ALIGNMENT) * ALIGNMENT
    return b"".join(parts)


def _pieces(tensor: Tensor, kind, pool) -> Iterator[bytes]:
    """The tensor's bytes as `kind`: several pieces are worked on at a time, few enough that finished ones do not
    pile up.
    """
    step = max(1, PIECE_ELEMENTS // tensor.width)
    ranges = [(first, min(first + step, tensor.num_rows)) for first in range(0, tensor.num_rows, step)]

    def work(first, last):
        return (
            tensor.stored(first, last) if kind is tensor.type else encode(tensor.values(first, last), kind, tensor.name)
        )

    waiting = deque()
    for rows in ranges:
        waiting.append(pool.submit(work, *rows))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def encode(values: np.ndarray, kind: GGMLQuantizationType, name: str) -> bytes:
    """f32 (rows, width) -> bytes of `kind`. Raises CannotConvert for what the format cannot hold."""
    if not np.isfinite(values).all():
        raise CannotConvert(
            f"tensor {name} holds values that are no numbers; the files are damaged, download them again"
        )
    if kind is GGMLQuantizationType.F16:
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.isfinite(halves).all():
            raise CannotConvert(
                f"tensor {name} holds {np.abs(values).max():g}, more than float16 can; quantize the model to another "
                f"type"
            )
        return halves.tobytes()
    return values.tobytes() if kind is GGMLQuantizationType.F32 else libgguf.quantize_rows(values, kind).tobytes()
