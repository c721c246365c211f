"""Matrix times vector in every format, against a kernel that only loads the same weights the same way
(shaders/load_floor.comp).

In: an open `Device`. Out: a `KernelSpeed` per format.
"""

import time
from dataclasses import dataclass

import numpy as np

from ..device.buffers import Arena
from ..device.dispatch import Dispatch, Program
from ..ops import matmul
from ..ops.op import TensorView, ceil_div, group_variant
from ..ops.packed import FORMATS, PackedMatrix, place

ROWS, K = 8192, 1536  # more than the caches near a core hold, in every format; long against the start of a dispatch
ROUNDS = 12


@dataclass(frozen=True)
class KernelSpeed:
    """product, load: nanoseconds per weight of the fastest tile of each; ratio: product / load."""

    format: str
    rows_per_lane: int
    product: float
    load: float
    ratio: float
    gb_per_second: float


def measure(device) -> list[KernelSpeed]:
    """Raises OutOfMemory where a matrix of 50 MB has no room."""
    return [_measure(device, name) for name in FORMATS]


def _measure(device, name: str) -> KernelSpeed:
    """Products and loads take turns in every round, so that what disturbs the machine disturbs both."""
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
    product, load = seconds["product", rows], min(seconds["load", each] for each in loads)
    num_bytes = sum(part.quants.num_bytes + part.scales.num_bytes for part in weight.parts)
    return KernelSpeed(
        name,
        rows,
        *(round(each * 1e9 / (ROWS * K), 4) for each in (product, load)),
        round(product / load, 2),
        round(num_bytes / product / 1e9, 2),
    )


def _load(device, weight, y, rows: int) -> list[Dispatch]:
    dispatches = []
    for part in weight.parts:
        name, lanes, size = group_variant(device, f"load_floor_{weight.format.name}_r{rows}")
        dispatches.append(
            Dispatch(
                name,
                (part.quants, part.scales),
                (y.buffer,),
                (ceil_div(part.num_rows, lanes * rows), 1, 1),
                {"LANES": lanes},
                {"num_rows": part.num_rows, "num_blocks": K // 32},
                size,
            )
        )
    return dispatches
