"""Run one op on numpy arrays: on a device, or as its twin. For tests, `vkbackend check`, and people who debug a shader.

from vkbackend.ops.run import run
y = run(device, "rope", x, positions, turns_per_position(10000.0, 64), n_rot=64, pairing="adjacent")
z = run(device, "matmul", y, weight)   # weight: a PackedMatrix of any format, or a float32 array (rows, K)
"""

from dataclasses import dataclass

import numpy as np

from ..device.buffers import Arena
from ..device.dispatch import Program
from .op import Op, TensorView, ceil_div
from .packed import PackedMatrix, place
from .q8_cache import NAME as Q8_0
from .q8_cache import Q8Cache
from .signature import PACKED


def run(device, name: str, *inputs, variant: dict | None = None, **attrs):
    """The op `name` on `device`: numpy arrays in, an array (or a tuple of them) out, as `OPS[name].reference` would
    give.

    variant: keyword arguments of the op's dispatch that choose a kernel, such as {"tile": (4, 1)} for matmul. Raises
    ValueError for an unknown op and for inputs that it does not take (nothing is converted), DeviceError where the
    device cannot run it.
    """
    op = _op(name)
    prepared = prepare(device, op, inputs, attrs, variant)
    Program(device, prepared.dispatches).run()
    results = prepared.results(device)
    return results[0] if len(results) == 1 else results


def reference(name: str, *inputs, **attrs):
    """The numpy twin. Inputs are left as they are. Raises ValueError where `run` does."""
    op = _op(name)
    inputs = accepted(op, inputs, attrs)
    shared = set(op.in_place.values())
    result = op.reference(*[value.copy() if at in shared else value for at, value in enumerate(inputs)], **attrs)
    return result


def _op(name: str) -> Op:
    from . import OPS  # the table imports this module, too

    if name not in OPS:
        raise ValueError(f"there is no op {name!r}; there are: {', '.join(OPS)}")
    return OPS[name]


def accepted(op: Op, inputs, attrs) -> list:
    """The inputs, complete and with arrays in place of matrices wrapped. Raises ValueError where the op's signature
    does not allow them.
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

    dispatches: list
    inputs: list
    outputs: list[TensorView]
    arena: Arena
    caches: set[int]  # id of each view that is a cache

    def results(self, device) -> tuple[np.ndarray, ...]:
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


def prepare(device, op, inputs, attrs, variant=None) -> Prepared:
    """Upload inputs, allocate outputs (filled with NaN bits, so that what is not written shows), make the dispatches.

    Raises ValueError for inputs that the op's signature does not allow."""
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
            outputs.append(
                _upload(device, arena, np.full(array.shape, np.nan if array.dtype.kind == "f" else -1, array.dtype))
            )
    attrs = {**attrs, **(variant or {})}
    scratch = [_upload(device, arena, np.full(shape, np.nan, dtype)) for shape, dtype in op.scratch(inputs, **attrs)]
    return Prepared(
        op.record(device, views, [*outputs, *scratch], **attrs),
        views,
        outputs,
        arena,
        {id(view) for name, view in zip(names, views) if name in CACHES},
    )


def _by_head(cache: np.ndarray) -> np.ndarray:
    """The twins' (pages, page_size, kv_heads, head_dim) as devices keep it, (pages, kv_heads, page_size, head_dim),
    and back.
    """
    return np.ascontiguousarray(cache.transpose(0, 2, 1, 3))


def _upload_cache(device, arena, cache):
    if not isinstance(cache, Q8Cache):
        return _upload(device, arena, _by_head(cache), cache.shape)
    packed = cache.packed()
    view = TensorView(arena.allocate(packed.nbytes), cache.shape, Q8_0)
    device.upload(view.buffer, packed)
    return view


def _upload(device, arena, value, shape=None):
    """shape: what the value is seen as, where that is not its own."""
    if value is None:
        return None
    if isinstance(value, PackedMatrix):
        placed = PackedMatrix(value.name, value.shape, value.format, value.raws, value.gated)
        place(placed, device, arena)
        return placed
    columns = int(np.prod(value.shape[1:]))
    stride = (
        ceil_div(columns, 4) * 4 if value.ndim == 2 and value.dtype.kind == "f" else columns
    )  # rows are read in fours
    whole = np.full((value.shape[0], stride), np.nan if value.dtype.kind == "f" else -1, value.dtype)
    whole[:, :columns] = value.reshape(value.shape[0], columns)
    view = TensorView(arena.allocate(-(-whole.nbytes // 16) * 16), shape or value.shape, value.dtype.name, 0, stride)
    device.upload(view.buffer, whole)
    return view
