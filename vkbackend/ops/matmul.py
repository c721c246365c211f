"""Matrix product with quantized weights: y = x W^T [+ residual], dequantized on the way, summed in f32.

x: (T, K) f32, weight: (N, K) of any format in `gguf.quants.FORMATS`, residual: (T, N) f32 or None -> (T, N) f32

On the device every (row, token) is one chain of fma along K, the same in every variant: bits do not depend on the batch.
"""

import numpy as np

from ..device.dispatch import Dispatch
from .op import ceil_div

NAME = "matmul"

# (rows per lane, tokens per lane) that are built, widest first.
SHAPES = ((8, 4), (4, 4), (8, 2), (4, 2), (8, 1), (4, 1), (1, 1))


def reference(x, weight, residual=None):
    """The twin. `weight` is a `models.weights.Weight` or anything with `.array() -> f32 (N, K)`. BLAS gemm for every T:
    gemv and gemm differ in bits."""
    matrix = weight.array()
    if x.shape[0] == 1:
        y = (np.concatenate([x, x]) @ matrix.T)[:1]
    else:
        y = x @ matrix.T
    return y if residual is None else y + residual
