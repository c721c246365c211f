"""Measures matrix times vector in every format, compared with a kernel that only loads the same weights in the same
way (shaders/load_floor.comp).

In: an open `Device`. Out: a `KernelSpeed` per format.
"""

import time
from dataclasses import dataclass

import numpy as np

from ..device.buffers import Arena
from ..device.context import Device
from ..device.dispatch import Dispatch, Program
from ..ops import matmul
from ..ops.op import TensorView, ceil_div, group_variant
from ..ops.packed import FORMATS, PackedMatrix
from ..ops.packing import place

ROWS, K = 8192, 1536  # exceeds the caches of a core in every format, and takes far longer than starting a dispatch
ROUNDS = 12


@dataclass(frozen=True)
class KernelSpeed:
    """The speed of one format.

    product, load: nanoseconds per weight, each with its fastest tile; ratio: product / load
    rows_per_lane: of the product's fastest tile
    """

    format: str
    rows_per_lane: int
    product: float
    load: float
    ratio: float
    gb_per_second: float


def measure(device: Device) -> list[KernelSpeed]:
    """Measure all formats. Raises OutOfMemory if the device has no room for a matrix of 50 MB."""
    return [_measure(device, name) for name in FORMATS]


def _measure(device: Device, name: str) -> KernelSpeed:
    """Measures products and loads alternately in every round, so that disturbances affect both."""
    arena = Arena(device, "device")
    rng = np.random.default_rng(0)
    weight = PackedMatrix.random(rng, name, ROWS, K)
    place(weight, device, arena)
    x, y = (TensorView(arena.allocate(4 * columns), (1, columns)) for columns in (K, ROWS))
    device.upload(x.buffer, rng.standard_normal(K, np.float32))
    inputs = (x, weight, None, None, None)
    tiles = [candidate["tile"] for candidate in matmul.candidates(device, inputs)]
    products = {tile[0]: Program(device, matmul.dispatch(device, inputs, [y], tile=tile)) for tile in tiles}
    loads = {tile[0]: Program(device, _load(device, weight, y, tile[0])) for tile in tiles}
    seconds = {(kind, rows): float("inf") for kind in ("product", "load") for rows in products}
    for turn in range(ROUNDS + 1):
        for (kind, rows), least in seconds.items():
            start = time.perf_counter()
            (products if kind == "product" else loads)[rows].run()
            if turn:
                seconds[kind, rows] = min(least, time.perf_counter() - start)
    rows = min(products, key=lambda each: seconds["product", each])
    product = seconds["product", rows]
    load = min(seconds["load", each] for each in loads)
    num_bytes = sum(part.quants.num_bytes + part.scales.num_bytes for part in weight.parts)
    return KernelSpeed(
        name,
        rows,
        round(product * 1e9 / (ROWS * K), 4),
        round(load * 1e9 / (ROWS * K), 4),
        round(product / load, 2),
        round(num_bytes / product / 1e9, 2),
    )


def _load(device: Device, weight: PackedMatrix, y: TensorView, rows: int) -> list[Dispatch]:
    dispatches = []
    for part in weight.parts:
        name, lanes, size = group_variant(device, f"load_floor_{weight.format.kernels}_r{rows}")
        dispatches.append(
            Dispatch(
                name,
                (part.quants, part.scales),
                (y.buffer,),
                (ceil_div(part.num_rows, lanes * rows), 1, 1),
                {"LANES": lanes, **weight.format.constants},
                {"num_rows": part.num_rows, "num_blocks": K // 32},
                size,
            )
        )
    return dispatches
