"""Matrix product with quantized weights, with what stands before and after it in a model:
y = [act(gate) * up of] (rms_norm(x) or x) W^T [+ bias] [+ residual], dequantized on the way, summed in f32.

x: (T, K) f32, weight: (N, K) of any format in `gguf.quants.FORMATS`, norm: (K,) f32 or None, residual: (T, N) f32 or
None, bias: (N,) f32 or None -> (T, N) f32 gate "silu" or "gelu": the weight is `gated`, its first N rows (and
elements of the bias) the gate and its last N up (Shazeer 2020, https://arxiv.org/abs/2002.05202).

On the device every (row, token) is one chain of fma along K, or, on a GPU, `num_slices` of them added up in order;
the same in every variant: bits do not depend on the batch. precision says otherwise where it is not "float32": x
(normed) is rounded in blocks of 32 along K, to float16 or to 8 bits, as multiples of the largest of its block or of
that one's 127th part; for devices that compute those faster. The same holds for products in float16.
"""

import numpy as np

from ..device.dispatch import Dispatch
from . import elementwise, rms_norm
from .op import Case, Op, ceil_div, group_variant
from .packed import FORMATS, PackedMatrix, row_lanes
from .signature import Signature

# (rows per lane, tokens per lane) that shaders/variants.toml builds.
TILES = {
    "base": ((1, 1), (2, 1), (4, 1), (2, 4), (4, 4)),
    "subgroup": ((1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (8, 2), (2, 4), (4, 4), (8, 4), (4, 8)),
}
TILES["texel"] = TILES["subgroup"]
SHARED, TILE_ROWS, TILE_TOKENS = "shared", 64, 32  # the tile of shaders/matmul_tile.comp, handed round in shared memory
MATRIX, MATRIX_SIDE, MATRIX_SUBGROUPS = (
    "matrix",
    64,
    4,
)  # shaders/matmul_matrix.comp, float16 only: a square tile of small matrices
MATRIX_SIZES = ("16x16x16", "8x16x16", "8x8x16", "8x8x8")  # that shaders/variants.toml builds, the best first
MAX_SLICES = 8
PRECISIONS = ("float32", "float16", "int8")
ONE_BY_ONE = 8  # so many rows of x at most does the twin multiply one by one
GATES = {"": 0, "silu": 1, "gelu": 2}  # GATE_* of shaders/activation.glsl


def reference(x, weight, norm=None, residual=None, bias=None, *, eps=0.0, gate="", precision="float32"):
    """The twin."""
    if norm is not None:
        x = rms_norm.reference(x, norm, eps=eps)
    if precision != "float32":
        x = rounded(x, precision)
    y = _product(x, weight)
    if bias is not None:
        y += bias
    if gate:
        half = y.shape[1] // 2
        y = {"silu": elementwise.silu_mul, "gelu": elementwise.gelu_mul}[gate](y[:, :half], y[:, half:])
    if residual is not None:
        y += residual
    return y


def rounded(x, precision):
    """x (T, K) as multiples of a unit per block of 32, f32 again."""
    blocks = x.reshape(len(x), -1, 32)
    largest = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True), np.float32(1e-30))
    unit = largest / np.float32(127) if precision == "int8" else largest
    whole = np.rint(blocks / unit) if precision == "int8" else (blocks / unit).astype(np.float16).astype(np.float32)
    return (whole * unit).reshape(x.shape)


def _product(x, weight):
    """x W^T, tile by tile. Few rows of x are multiplied one by one (gemv): faster than gemm, which copies the matrix
    first, and the bits of a row depend on nothing else in the step. Many rows go through gemm, which adds up in
    another order.
    """
    y = np.empty((len(x), weight.shape[0]), np.float32)
    for first, tile in weight.tiles():
        part = y[:, first : first + len(tile)]
        if len(x) > ONE_BY_ONE:
            np.matmul(x, tile.T, out=part)
        else:
            for row in range(len(x)):
                np.matmul(tile, x[row], out=part[row])
    return y


def choose_tile(device, num_tokens: int, num_rows: int, gated: bool) -> tuple[int, int]:
    """Rows and tokens per lane. A CPU driver has few threads, so it wants the widest tile; a GPU wants enough
    workgroups first.
    """
    tiles = [tile for tile in _possible(device, gated) if tile[1] <= max(num_tokens, 1) or tile[1] == 1]
    lanes = row_lanes(device)
    enough = 4 if device.info.is_cpu else 1024

    def value(tile):
        rows, tokens = tile
        groups = ceil_div(num_rows, lanes * rows) * ceil_div(num_tokens, tokens)
        wasted = tokens * ceil_div(num_tokens, tokens) / max(num_tokens, 1)
        return min(1.0, groups / enough), -wasted if wasted > 1.5 else 0, rows * tokens

    return max(tiles, key=value)


def num_slices(device, k: int) -> int:
    """Of K, for every product with rows of k weights on this device. A GPU has lanes for many times the rows of a
    matrix, and slices of four blocks or more are worth a subgroup; a CPU driver has not, and the base kernels do
    without.
    """
    if device.info.is_cpu or device.flavor == "base":
        return 1
    limits = device.info.limits
    return max(
        1, min(MAX_SLICES, k // 128, limits.max_workgroup_invocations // device.lanes, limits.max_workgroup_subgroups)
    )


def matrix_size(device) -> str | None:
    """M x N x K of the matrices that MATRIX multiplies on this device; None where it cannot. Drivers with several
    subgroup sizes have the matrices in some of them only; the size that they choose by themselves is one of these.
    """
    info = device.info
    if (
        device.flavor == "base"
        or device.lanes != info.subgroup_size
        or not device.supports("memory_model")
        or info.limits.max_workgroup_subgroups < MATRIX_SUBGROUPS
        or info.limits.max_workgroup_invocations < MATRIX_SUBGROUPS * device.lanes
    ):
        return None
    return next((size for size in MATRIX_SIZES if device.supports(f"cooperative_matrix_{size}")), None)


def _possible(device, gated: bool):
    """A lane needs a row of the gate and one of up."""
    return [tile for tile in TILES[device.flavor] if not gated or tile[0] % 2 == 0]


def dispatch(device, inputs, outputs, *, eps=0.0, gate="", tile=None, slices=None, precision="float32"):
    """tile: one of TILES, SHARED or MATRIX, None for `choose_tile`'s; slices: None for `num_slices`'. Other
    precisions than float32 have SHARED and, in float16, MATRIX, which is used wherever the device has it: a measured
    choice would change a result's last bits.
    """
    x, weight, norm, residual, bias = inputs
    y = outputs[0]
    num_tokens, k = x.shape
    halves = 2 if gate else 1
    slices = slices or num_slices(device, k)
    size, shape = 0, {}  # required subgroup size; constants of the kernel's own
    if precision == "float16" and tile is None and matrix_size(device):
        tile = MATRIX
    dispatches = []
    for part in weight.parts:
        if tile == MATRIX:
            name, lanes = f"matmul_{weight.format.name}_matrix_{matrix_size(device)}", row_lanes(device)
            size, shape = lanes, {"THREADS": MATRIX_SUBGROUPS * lanes}
            groups = (ceil_div(part.num_rows, MATRIX_SIDE), ceil_div(num_tokens, MATRIX_SIDE), 1)
        elif tile == SHARED or precision != "float32":
            name, lanes = (
                f"matmul_{weight.format.name}_tile" + (f"_{precision}" if precision != "float32" else ""),
                row_lanes(device),
            )
            groups, shape = (
                (ceil_div(part.num_rows, TILE_ROWS), ceil_div(num_tokens, TILE_TOKENS), 1),
                {"SLICES": slices},
            )
        else:
            rows, tokens = tile or choose_tile(device, num_tokens, part.num_rows, bool(gate))
            name, lanes, size = group_variant(device, f"matmul_{weight.format.name}_r{rows}_t{tokens}")
            groups = (ceil_div(part.num_rows, lanes * rows), ceil_div(num_tokens, tokens), 1)
            shape = {"THREADS": lanes * slices, "SLICES": slices}
        first = part.first_row // halves
        outputs_here = min(part.num_rows // halves, y.shape[1] - first)
        push = {
            "num_tokens": num_tokens,
            "num_rows": part.num_rows,
            "num_blocks": k // 32,
            "num_outputs": outputs_here,
            **x.fours("x"),
            "y_offset": y.offset + first,
            "y_stride": y.stride,
            "residual_offset": residual.offset + first if residual else 0,
            "residual_stride": residual.stride if residual else 0,
            "bias_offset": first,
            "up_bias_offset": weight.shape[0] // 2 + first,
            "eps": eps,
        }
        dispatches.append(
            Dispatch(
                name,
                (x.buffer, part.quants, part.scales, (norm or x).buffer, (residual or y).buffer, (bias or y).buffer),
                (y.buffer,),
                groups,
                {
                    "LANES": lanes,
                    "HAS_NORM": norm is not None,
                    "GATE": GATES[gate],
                    "HAS_BIAS": bias is not None,
                    **shape,
                },
                push,
                size,
                flops=2 * num_tokens * part.num_rows * k,
                label=f"matmul_{weight.format.name}",
            )
        )
    return dispatches


def variants(device, inputs, *, precision="float32", **_):
    if precision != "float32":
        return [
            {"tile": tile} for tile in (SHARED, *([MATRIX] if precision == "float16" and matrix_size(device) else []))
        ]
    tiles = _possible(device, inputs[1].gated)
    sliced = [] if device.flavor == "base" else [(4, 1), (4, 4), SHARED]
    return [{"tile": tile} for tile in (*tiles, SHARED)] + [{"tile": tile, "slices": 3} for tile in sliced]


def candidates(device, inputs, *, gate="", precision="float32", **_):
    """Tiles with at most as many tokens as there are, and at least half of the most of these. On a CPU device few
    rows a lane never win, and its compiler takes longer than the rest of a start; nor does shared memory, which is
    memory like any other there.
    """
    if precision != "float32":
        return []
    num_tokens, fewest = inputs[0].shape[0], 4 if device.info.is_cpu else 1
    fitting = [tile for tile in _possible(device, bool(gate)) if tile[1] <= num_tokens and tile[0] >= fewest]
    most = max(tokens for _, tokens in fitting)
    shared = num_tokens >= TILE_TOKENS // 2 and not device.info.is_cpu
    return [
        {"tile": tile} for tile in (*(each for each in fitting if each[1] * 2 >= most), *([SHARED] if shared else []))
    ]


def precision_for(weight, wanted: str) -> str:
    """What a product with `weight` is computed in where `wanted` is asked for: plain numbers have no codes for
    integer products.
    """
    return "float32" if wanted == "int8" and weight.format.block_size == 1 else wanted


def requires(*, precision="float32", **_):
    return {"float16": ("float16",), "int8": ("integer_dot_product",)}.get(precision, ())


def job(inputs, *, gate="", **_):
    x, weight, norm, residual, bias = inputs
    words = [word for word, there in (("norm", norm), (gate, gate), ("residual", residual), ("bias", bias)) if there]
    return " ".join([weight.format.name, f"{x.shape[0]}x{weight.shape[0]}x{weight.shape[1]}", *words])


def _case(name, tokens, rows, k, norm=False, residual=False, bias=False, gate="", precision="float32"):
    def make(rng):
        x = rng.standard_normal((tokens, k), np.float32)
        return [
            x,
            PackedMatrix.random(rng, name, rows, k, bool(gate)),
            rng.uniform(0.5, 1.5, k).astype(np.float32) if norm else None,
            rng.standard_normal((tokens, rows), np.float32) if residual else None,
            rng.standard_normal(2 * rows if gate else rows, np.float32) if bias else None,
        ]

    words = [
        word
        for word, there in (
            ("norm", norm),
            (gate, gate),
            ("residual", residual),
            ("bias", bias),
            (precision, precision != "float32"),
        )
        if there
    ]
    attrs = {"eps": 1e-5, "gate": gate} if norm or gate else {}
    if precision != "float32":
        # int8: a quotient that lies in the middle of two multiples may become either, once in a sum: 3 / 127 times a
        # weight of 0.05. float16: sums of eight products are rounded at each step, by 2^-11 of what they have reached;
        # random q8_0 weights are three times as large.
        attrs["precision"] = precision
        atol = 1.2e-3 if precision == "int8" else {"q8_0": 9e-4}.get(name, 3e-4) * k**0.5
        return Case(" ".join([f"{name} {tokens}x{rows}x{k}", *words]), make, attrs, atol, 2e-4)
    # Sums of K products of size ~0.1 in another order than BLAS: rounding grows as the square root of K.
    return Case(" ".join([f"{name} {tokens}x{rows}x{k}", *words]), make, attrs, 3e-6 * k**0.5, 2e-5)


def _cases():
    for name, kind in FORMATS.items():
        k = kind.block_size if kind.block_size == 256 else 96  # an odd number of blocks
        yield _case(name, 1, 200, 3 * k if kind.block_size == 256 else k)
        yield _case(name, 7, 37, k, residual=True)
    for name in ("q4_1", "q6_k"):  # norm and gate do not depend on the format
        yield _case(name, 1, 100, 768, norm=True)
        yield _case(name, 6, 37, 256, norm=True, residual=True)
        yield _case(name, 1, 200, 256, norm=True, gate="silu")
        yield _case(name, 5, 37, 512, gate="gelu")
        yield _case(name, 40, 70, 256, norm=True, gate="silu")
    for name, kind in FORMATS.items():
        for precision in PRECISIONS[1:] if kind.block_size > 1 else ["float16"]:
            yield _case(name, 35, 70, 512, precision=precision)
    yield _case("q4_0", 1, 200, 256, bias=True)
    yield _case("q6_k", 6, 37, 256, norm=True, residual=True, bias=True)
    yield _case("q4_1", 1, 200, 256, bias=True, gate="silu")
    yield _case("q8_0", 40, 70, 256, norm=True, bias=True, gate="gelu")
    for precision in PRECISIONS[1:]:
        yield _case("q5_1", 35, 37, 256, bias=True, precision=precision)
        yield _case("q5_0", 16, 70, 256, bias=True, gate="silu", precision=precision)
        yield _case("q4_k", 16, 96, 256, norm=True, gate="silu", precision=precision)
        yield _case("q8_0", 33, 37, 128, norm=True, residual=True, precision=precision)


SIGNATURE = Signature(
    "x (T, K) f32",
    "weight (N, K) packed",
    "norm? (K) f32",
    "residual? (T, columns) f32",
    "bias? (N) f32",
    multiples={"K": 32},
    rules=(
        (f"gate must be one of {', '.join(map(repr, GATES))}", lambda s: s.get("gate", "") in GATES),
        (f"precision must be one of {', '.join(PRECISIONS)}", lambda s: s.get("precision", "float32") in PRECISIONS),
        (
            "a gate needs a gated weight, and a gated weight a gate",
            lambda s: bool(s.get("gate", "")) == s["weight"].gated,
        ),
        (
            "residual must have the output's columns: N, or N / 2 with a gate",
            lambda s: s["residual"] is None or s["columns"] == s["N"] // (2 if s.get("gate", "") else 1),
        ),
    ),
)

OP = Op(
    "matmul",
    reference,
    dispatch,
    tuple(_cases()),
    SIGNATURE,
    variants=variants,
    candidates=candidates,
    job=job,
    requires=requires,
)
