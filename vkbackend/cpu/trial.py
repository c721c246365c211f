"""Whether ggml works on this CPU: products of every format, alone, among other rows and on two threads.

Run as a program by `library.py`. Exit status 0: the products agree with numpy's, and the bits of a row depend neither
on the other rows nor on the threads. Standard output: the formats whose products by kernels of `vkbackend._cpu` have
the bits of ggml's.
"""

import importlib
import sys
from types import ModuleType

import numpy as np

from .. import _cpu
from ..graph.builder import Graph
from ..graph.step import StepShape
from ..ops import matmul
from ..ops.packed import FORMATS, PackedMatrix
from .memory import Memory
from .pool import Pool
from .program import Program

K = 256
ROWS = 48
TOKENS = 37
MEAN_ERROR = 0.02  # of the products' standard deviation; activations of 8 bits give about 0.005


def main() -> int:
    """Try all formats; prints the first fault."""
    ggml = importlib.import_module("ggml")
    pools = [Pool(ggml, 1), Pool(ggml, 2)]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((TOKENS, K), np.float32)
    for name in FORMATS:
        weight = PackedMatrix.random(rng, name, ROWS, K)
        wanted = matmul.reference(x, weight)
        found = [_product(ggml, pool, weight, x[:count]) for pool in pools for count in (1, 2, TOKENS)]
        if not np.abs(found[-1] - wanted).mean() <= MEAN_ERROR * wanted.std():
            print(f"wrong products of {name}", file=sys.stderr)
            return 1
        if not all((y == found[-1][: len(y)]).all() for y in found):
            print(f"products of {name} depend on the other rows or on the threads", file=sys.stderr)
            return 1
        if _cpu.has_product(int(weight.format.type)):
            own = [_product(ggml, pool, weight, x[:count], own=True) for pool in pools for count in (1, 2, TOKENS)]
            if all((y == found[-1][: len(y)]).all() for y in own):
                print(name)
    return 0


def _product(ggml: ModuleType, pool: Pool, weight: PackedMatrix, x: np.ndarray, own: bool = False) -> np.ndarray:
    own_products = (weight.format.name,) if own else ()
    program = Program(ggml, pool, Graph(StepShape(len(x), 0), (1, 1)), Memory(), own_products=own_products)
    y = np.empty((len(x), weight.shape[0]), np.float32)
    program.product(weight.raws[0], weight.format, x, y)
    program.close()
    program.run({})
    return y


if __name__ == "__main__":
    sys.exit(main())
