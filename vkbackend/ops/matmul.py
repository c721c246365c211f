"""Matrix product with quantized weights: y = x W^T [+ residual], dequantized on the way, summed in f32.

x: (T, K) f32, weight: (N, K) of any format in `gguf.quants.FORMATS`, residual: (T, N) f32 or None -> (T, N) f32

On the device every (row, token) is one chain of fma along K, the same in every variant: bits do not depend on the batch.
"""

import numpy as np

from ..device.dispatch import Dispatch
from .op import BASE_LANES, Case, Op, ceil_div
from .packed import FORMATS, PackedMatrix

# (rows per lane, tokens per lane) that shaders/variants.toml builds.
TILES = {"base": ((1, 1), (4, 1), (1, 4), (4, 4)),
         "subgroup": ((1, 1), (4, 1), (8, 1), (4, 2), (1, 4), (4, 4), (8, 4))}
TILES["texel"] = TILES["subgroup"]


def reference(x, weight, residual=None):
    """The twin. BLAS gemm for every T: gemv and gemm differ in bits."""
    matrix = weight.array()
    if x.shape[0] == 1:
        y = (np.concatenate([x, x]) @ matrix.T)[:1]
    else:
        y = x @ matrix.T
    return y if residual is None else y + residual


def choose_tile(device, num_tokens: int, num_rows: int) -> tuple[int, int]:
    """Rows and tokens per lane. A CPU driver has few threads, so it wants the widest tile; a GPU wants enough workgroups first."""
    tiles = [tile for tile in TILES[device.flavor] if tile[1] <= max(num_tokens, 1) or tile[1] == 1]
    lanes = BASE_LANES if device.flavor == "base" else device.lanes
    enough = 4 if device.info.is_cpu else 1024

    def value(tile):
        rows, tokens = tile
        groups = ceil_div(num_rows, lanes * rows) * ceil_div(num_tokens, tokens)
        wasted = tokens * ceil_div(num_tokens, tokens) / max(num_tokens, 1)
        return min(1.0, groups / enough), -wasted if wasted > 1.5 else 0, rows * tokens
    return max(tiles, key=value)


def dispatch(device, inputs, outputs, *, tile=None):
    x, weight, residual = inputs
    y = outputs[0]
    num_tokens, k = x.shape
    flavor = device.flavor
    lanes, size = (BASE_LANES, 0) if flavor == "base" else (device.lanes, device.lanes)
    dispatches = []
    for part in weight.parts:
        rows, tokens = tile or choose_tile(device, num_tokens, part.num_rows)
        push = (num_tokens, part.num_rows, k // 32, *x.fours, y.offset + part.first_row, y.stride,
                *((residual.offset + part.first_row, residual.stride) if residual else (0, 0)))
        dispatches.append(Dispatch(
            f"matmul_{weight.format.name}_r{rows}_t{tokens}_{flavor}", (x.buffer, part.quants, part.scales, (residual or y).buffer), (y.buffer,),
            (ceil_div(part.num_rows, lanes * rows), ceil_div(num_tokens, tokens), 1), ((0, lanes), (1, lanes)), push, size,
            flops=2 * num_tokens * part.num_rows * k, label=f"matmul_{weight.format.name}"))
    return dispatches


def variants(device, inputs):
    return [{"tile": tile} for tile in TILES[device.flavor]]


def _case(name, tokens, rows, k, residual=False):
    def make(rng):
        x = rng.standard_normal((tokens, k), np.float32)
        return [x, PackedMatrix.random(rng, name, rows, k), rng.standard_normal((tokens, rows), np.float32) if residual else None]
    # Sums of K products of size ~0.1 in another order than BLAS: rounding grows as the square root of K.
    return Case(f"{name} {tokens}x{rows}x{k}", make, {}, 3e-6 * k ** 0.5, 2e-5)


def _cases():
    for name, kind in FORMATS.items():
        k = kind.block_size if kind.block_size == 256 else 96  # an odd number of blocks
        yield _case(name, 1, 200, 3 * k if kind.block_size == 256 else k)
        yield _case(name, 7, 37, k, residual=True)


OP = Op("matmul", reference, dispatch, tuple(_cases()), variants=variants)
