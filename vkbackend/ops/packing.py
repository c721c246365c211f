"""Packs matrices into device memory, in the layout of shaders/quant/README.md.

In: a `PackedMatrix`, whose rows are views of the mapped file. Out: its parts. Rows are packed piece by piece, by native
code on several threads (vkbackend/gguf/pack.cpp): straight into device memory that the host sees, else into the upload
ring. No piece is copied in between.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from .. import _native
from ..device.buffers import Arena
from ..device.context import Device
from ..device.host_memory import usable_cores
from ..device.upload_ring import PIECE_BYTES
from ..gguf.quants import GROUP
from .op import BASE_LANES
from .packed import PackedMatrix, PackedRows

# Empty if the extension was built from older sources. Formats without native code are packed by numpy, slowly.
NATIVE_FORMATS: frozenset[str] = getattr(_native, "PACKED_FORMATS", frozenset())


def _ignore(num_bytes: int) -> None:
    """The default of `report`."""


def place(matrix: PackedMatrix, device: Device, arena: Arena, report: Callable[[int], None] = _ignore) -> None:
    """Pack `matrix` into buffers of `arena`, which become its parts. report: called with the bytes of the file packed
    each time. Programs submitted later see the weights; `Device.finish_uploads` waits for the copies.

    Raises OutOfMemory, DeviceLost, DeviceError.
    """
    k = matrix.shape[1]
    lanes = row_lanes(device)
    num_threads = usable_cores()
    rows = packed_rows(matrix, lanes)
    unit = max(2 * lanes, GROUP) if matrix.gated else GROUP
    if matrix.experts > 1:
        unit = math.lcm(unit, matrix.shape[0] // matrix.experts)  # no expert is in two parts
    table_bytes = matrix.format.table_bytes
    step = (largest_binding(device, matrix) - table_bytes) // max(matrix.format.packed_shape(unit, k)) * unit
    for first in range(0, rows, step):
        count = min(step, rows - first)
        quants_bytes, scales_bytes = matrix.format.packed_shape(count, k)
        quants, scales = arena.allocate(quants_bytes), arena.allocate(max(table_bytes + scales_bytes, 16))
        if matrix.format.table:
            device.upload(scales.slice(0, table_bytes), matrix.format.table())
        part = PackedRows(first, count, quants, scales)
        _write(matrix, device, partial(pack_groups, matrix, lanes, num_threads), part, report)
        matrix.parts.append(part)


def _write(
    matrix: PackedMatrix,
    device: Device,
    pack: Callable[[int, int, list[np.ndarray]], None],
    part: PackedRows,
    report: Callable[[int], None],
) -> None:
    """Pack the rows of `part`, as many groups at a time as the upload ring holds. pack: `pack_groups` from `first`
    on.
    """
    quants_bytes, scales_bytes = matrix.format.packed_shape(GROUP, matrix.shape[1])  # of a group
    groups = -(-part.num_rows // GROUP)
    step = max(1, PIECE_BYTES // (quants_bytes + scales_bytes))
    bytes_of_rows = matrix.raws[0].shape[1] * part.num_rows
    reported = 0
    for first in range(0, groups, step):
        count = min(step, groups - first)
        targets = [
            part.quants.slice(first * quants_bytes, count * quants_bytes),
            part.scales.slice(matrix.format.table_bytes + first * scales_bytes, count * scales_bytes),
        ]
        device.write(targets, partial(pack, part.first_row // GROUP + first, count))
        done = bytes_of_rows * (first + count) // groups
        report(done - reported)
        reported = done


def pack_groups(
    matrix: PackedMatrix, lanes: int, num_threads: int, first: int, count: int, planes: list[np.ndarray]
) -> None:
    """Pack `count` groups of rows, beginning with group `first`, into `planes`: codes and scales, uint8. lanes: of the
    device; rows of a gated matrix alternate by them.
    """
    quants, scales = planes
    kind = matrix.format
    if kind.name in NATIVE_FORMATS:
        gated_lanes = lanes if matrix.gated else 0
        _native.pack(kind.name, matrix.raws, gated_lanes, first, count, quants, scales, num_threads)
        return
    last = min((first + count) * GROUP, packed_rows(matrix, lanes))
    kind.pack(rows_in_order(matrix, lanes, first * GROUP, last), quants, scales)


def packed_rows(matrix: PackedMatrix, lanes: int) -> int:
    """Number of rows on the device, without those that fill up the last group. The halves of a gated matrix are padded
    to a multiple of `lanes`.
    """
    if not matrix.gated:
        return matrix.shape[0]
    return 2 * (-(-len(matrix.raws[0]) // lanes) * lanes)


def rows_in_order(matrix: PackedMatrix, lanes: int, first: int, last: int) -> np.ndarray:
    """Rows first ... last - 1 as in the file, in the order in which they are packed: those of stacked tensors one after
    the other; of a gated matrix `lanes` rows of the gate, `lanes` rows of up, and so on, both padded with zeros.
    """
    wanted = np.arange(first, last)
    if not matrix.gated:
        return matrix.raw_rows(wanted)
    num_rows = len(matrix.raws[0])
    row = wanted // (2 * lanes) * lanes + wanted % lanes  # of its half
    is_padding = row >= num_rows
    found = matrix.raw_rows(np.where(is_padding, 0, wanted // lanes % 2 * num_rows + row))
    found[is_padding] = 0
    return found


def row_lanes(device: Device) -> int:
    """Number of neighboring rows that the lanes of a group work on."""
    return BASE_LANES if device.flavor == "base" else device.lanes


def largest_binding(device: Device, matrix: PackedMatrix) -> int:
    """Bytes of `matrix` that one binding can hold. With texel buffers the limit is in texels: 16 bytes of quants, or
    one word of scales.
    """
    limits = device.info.limits
    if device.flavor != "texel":
        return limits.max_storage_buffer_range
    quants_bytes, scales_bytes = matrix.format.packed_shape(GROUP, matrix.shape[1])
    texels = limits.max_texel_buffer_elements
    by_quants, by_scales = texels * 16, texels * 4 * quants_bytes // max(scales_bytes, 1)
    return min(limits.max_storage_buffer_range, by_quants, by_scales)
