"""Run one op on numpy arrays: on a device, or as its twin. For tests, `vkbackend check` and debugging shaders.

from vkbackend.ops.run import run
y = run(device, "rope", x, positions, turns_per_position(10000.0, 64), n_rot=64, pairing="adjacent")
z = run(device, "matmul", y, weight)   # weight: a PackedMatrix of any format, or a float32 array (rows, K)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..device.buffers import Arena
from ..device.context import Device
from ..device.dispatch import Dispatch, Program
from .op import Op, TensorView, ceil_div
from .packed import PackedMatrix
from .packing import place
from .q8_cache import NAME as Q8_0
from .q8_cache import Cache, Q8Cache
from .signature import PACKED


def run(
    device: Device, name: str, *inputs: object, variant: dict | None = None, **attrs: Any
) -> Cache | tuple[Cache, ...]:
    """Run the op `name` on `device`: numpy arrays in, an array or a tuple of arrays out, as from `reference`.

    variant: keyword arguments of the op's dispatch that choose a kernel, such as {"tile": (4, 1)} for matmul. Raises
    ValueError for an unknown op and for inputs that do not match its signature (nothing is converted), DeviceError if
    the device cannot run it, DeviceLost if it was lost (the next call opens it again).
    """
    op = _op(name)
    device.reopen_if_lost()
    prepared = prepare(device, op, inputs, attrs, variant)
    Program(device, prepared.dispatches).run()
    results = prepared.results(device)
    return results[0] if len(results) == 1 else results


def reference(name: str, *inputs: object, **attrs: Any) -> Cache | tuple[Cache, ...]:
    """Run the numpy twin of the op `name`. Inputs are not changed. Raises ValueError as `run` does."""
    op = _op(name)
    shared = set(op.in_place.values())
    values = [value.copy() if at in shared else value for at, value in enumerate(accepted(op, inputs, attrs))]
    return op.reference(*values, **attrs)


def _op(name: str) -> Op:
    from . import OPS  # the table imports this module as well

    if name not in OPS:
        raise ValueError(f"there is no op {name!r}; there are: {', '.join(OPS)}")
    return OPS[name]


def accepted(op: Op, inputs: Sequence, attrs: Mapping[str, object]) -> list:
    """The inputs, with None for those left out and arrays wrapped where the op takes a `PackedMatrix`. Raises
    ValueError if they do not match the op's signature.
    """
    wrapped = [
        PackedMatrix.from_array(value, f"{op.name}: {argument.name}")
        if PACKED in argument.kinds and isinstance(value, np.ndarray)
        else value
        for argument, value in zip(op.signature.arguments, op.signature.complete(op.name, inputs))
    ]
    op.signature.check(op.name, wrapped, attrs)
    return wrapped


CACHES = ("k_cache", "v_cache")


@dataclass
class Prepared:
    """An op's inputs and outputs in device memory, and its dispatches."""

    dispatches: list[Dispatch]
    inputs: list
    outputs: list[TensorView]
    arena: Arena
    caches: set[int]  # id of each view that is a cache

    def results(self, device: Device) -> tuple[Cache, ...]:
        """The outputs, downloaded."""
        found = []
        for view in self.outputs:
            if view.dtype == Q8_0:
                found.append(
                    Q8Cache.unpacked(device.download(view.buffer, np.uint8, (view.buffer.num_bytes,)), view.shape)
                )
                continue
            rows, columns = view.shape[0], view.row_elements
            whole = device.download(view.buffer, view.dtype, (rows, view.stride))
            if id(view) in self.caches:
                pages, page_size, kv_heads, head_dim = view.shape
                whole = _by_head(whole.reshape(pages, kv_heads, page_size, head_dim)).reshape(rows, columns)
            found.append(np.ascontiguousarray(whole[:, :columns]).reshape(view.shape))
        return tuple(found)


def prepare(
    device: Device, op: Op, inputs: Sequence, attrs: Mapping[str, Any], variant: dict | None = None
) -> Prepared:
    """Upload the inputs, allocate outputs (filled with NaN or -1, so that elements never written stand out) and make
    the dispatches. Raises ValueError for inputs that do not match the op's signature.
    """
    inputs = accepted(op, inputs, attrs)
    arena = Arena(device, "device", 1 << 20)
    names = [argument.name for argument in op.signature.arguments]
    views = [
        _upload_cache(device, arena, value) if name in CACHES else _upload(device, arena, value)
        for name, value in zip(names, inputs)
    ]
    expected = reference(op.name, *inputs, **attrs)
    outputs = []
    for index, array in enumerate(expected if isinstance(expected, tuple) else (expected,)):
        if index in op.in_place:
            outputs.append(views[op.in_place[index]])
        else:
            outputs.append(_upload_empty(device, arena, array.shape, array.dtype))
    attrs = {**attrs, **(variant or {})}
    scratch = [_upload_empty(device, arena, shape, dtype) for shape, dtype in op.scratch(inputs, **attrs)]
    return Prepared(
        op.record(device, views, [*outputs, *scratch], **attrs),
        views,
        outputs,
        arena,
        {id(view) for name, view in zip(names, views) if name in CACHES},
    )


def _upload_empty(device: Device, arena: Arena, shape: tuple[int, ...], dtype: DTypeLike) -> TensorView:
    dtype = np.dtype(dtype)
    return _upload_array(device, arena, np.full(shape, np.nan if dtype.kind == "f" else -1, dtype), shape)


def _by_head(cache: np.ndarray) -> np.ndarray:
    """Convert a cache from the twins' layout (pages, page_size, kv_heads, head_dim) to the devices' (pages, kv_heads,
    page_size, head_dim), or back.
    """
    return np.ascontiguousarray(cache.transpose(0, 2, 1, 3))


def _upload_cache(device: Device, arena: Arena, cache: Cache) -> TensorView:
    if not isinstance(cache, Q8Cache):
        return _upload_array(device, arena, _by_head(cache), cache.shape)
    packed = cache.packed()
    view = TensorView(arena.allocate(packed.nbytes), cache.shape, Q8_0)
    device.upload(view.buffer, packed)
    return view


def _upload(device: Device, arena: Arena, value: np.ndarray | PackedMatrix | None) -> TensorView | PackedMatrix | None:
    if value is None:
        return None
    if isinstance(value, PackedMatrix):
        placed = PackedMatrix(value.name, value.shape, value.format, value.raws, value.gated, value.experts)
        place(placed, device, arena)
        return placed
    return _upload_array(device, arena, value, value.shape)


def _upload_array(device: Device, arena: Arena, value: np.ndarray, shape: tuple[int, ...]) -> TensorView:
    """shape: of the view."""
    columns = int(np.prod(value.shape[1:]))
    padded = value.ndim == 2 and value.dtype.kind == "f"  # rows are read in fours
    stride = ceil_div(columns, 4) * 4 if padded else columns
    whole = np.full((value.shape[0], stride), np.nan if value.dtype.kind == "f" else -1, value.dtype)
    whole[:, :columns] = value.reshape(value.shape[0], columns)
    view = TensorView(arena.allocate(-(-whole.nbytes // 16) * 16), shape, value.dtype.name, 0, stride)
    device.upload(view.buffer, whole)
    return view
