"""Matrix product with quantized weights, fused with the ops before and after it in a model:
y = [act(gate) * up of] (rms_norm(x) or x) W^T [+ bias] [+ residual], dequantized on the fly, summed in f32.

x: (T, K) f32, weight: (N, K) of any format in `gguf.quants.FORMATS`, norm: (K,) f32 or None, residual: (T, N) f32 or
None, bias: (N,) f32 or None -> (T, N) f32. gate "silu" or "gelu": the weight is `gated`; its first N rows (and elements
of the bias) are the gate and its last N are up (Shazeer 2020, https://arxiv.org/abs/2002.05202).

On the device every (row, token) is one chain of fma along K or, on a GPU, `num_slices` chains added up in order. This
order is the same in every variant, so bits do not depend on the batch. The precisions "float16" and "int8" round x
(after the norm) in blocks of 32 along K, relative to the block's largest magnitude: to float16, or to 8 bits in steps
of 1/127 of it. They are for devices that compute these types faster. In float16 the products are rounded as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from . import elementwise, rms_norm
from .matmul_kernels import (
    MATRIX,
    SHARED,
    TILE_TOKENS,
    Tile,
    choose_kernel,
    matrix_size,
    num_slices,
    possible_tiles,
)
from .op import Case, Op, Shaped, TensorView, token_ranges
from .packed import FORMATS, PackedMatrix, PackedRows, QuantFormat
from .packing import row_lanes
from .signature import Signature

PRECISIONS = ("float32", "float16", "int8")
GATES = {"": 0, "silu": 1, "gelu": 2}  # GATE_* of shaders/activation.glsl
# Push constants of products by expert (`expert_matmul`).
NO_PAIRS = dict.fromkeys(("first_slot", "num_pairs", "pairs_per_row", "first_expert", "num_experts"), 0)
# Beginnings of names: these formats differ from others in their codes alone, so they have fewer cases.
LOOKED_UP = ("mxfp4", "iq")
ONE_BY_ONE = 8  # up to this many rows of x the twin multiplies row by row

# x, weight, norm, residual, bias
Inputs = tuple[TensorView, PackedMatrix, TensorView | None, TensorView | None, TensorView | None]


def reference(
    x: np.ndarray,
    weight: PackedMatrix,
    norm: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    *,
    eps: float = 0.0,
    gate: str = "",
    precision: str = "float32",
) -> np.ndarray:
    """The numpy twin."""
    if norm is not None:
        x = rms_norm.reference(x, norm, eps=eps)
    if precision != "float32":
        x = rounded(x, precision)
    y = _product(x, weight)
    if bias is not None:
        y += bias
    if gate:
        half = y.shape[1] // 2
        y = elementwise.gated(gate, y[:, :half], y[:, half:])
    if residual is not None:
        y += residual
    return y


def rounded(x: np.ndarray, precision: str) -> np.ndarray:
    """x (T, K) rounded to `precision` with a unit per block of 32; f32 again."""
    blocks = x.reshape(len(x), -1, 32)
    largest = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True), np.float32(1e-30))
    unit = largest / np.float32(127) if precision == "int8" else largest
    whole = np.rint(blocks / unit) if precision == "int8" else (blocks / unit).astype(np.float16).astype(np.float32)
    return (whole * unit).reshape(x.shape)


def _product(x: np.ndarray, weight: PackedMatrix) -> np.ndarray:
    """x W^T, tile by tile. Few rows of x are multiplied one by one (gemv): faster than gemm, which copies the matrix
    first, and the bits of a row do not depend on the rest of the step. Many rows go through gemm, which sums in
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


def dispatch(
    device: Device,
    inputs: Inputs,
    outputs: Sequence[TensorView],
    *,
    eps: float = 0.0,
    gate: str = "",
    tile: Tile | None = None,
    slices: int = 0,
    precision: str = "float32",
) -> list[Dispatch]:
    """One dispatch per part of the weight, or several for many tokens. tile: see `choose_kernel`. slices: 0 lets
    `num_slices` decide.
    """
    x, weight = inputs[:2]
    k = weight.shape[1]
    slices = slices or num_slices(device, k)
    return [
        _dispatch_part(device, part, tokens, inputs, outputs[0], eps, gate, tile, slices, precision)
        for part in weight.parts
        for tokens in token_ranges(x.shape[0], 2 * part.num_rows * k)
    ]


def _dispatch_part(
    device: Device,
    part: PackedRows,
    tokens: tuple[int, int, int],
    inputs: Inputs,
    y: TensorView,
    eps: float,
    gate: str,
    tile: Tile | None,
    slices: int,
    precision: str,
) -> Dispatch:
    """tokens: one of `token_ranges`."""
    x, weight, norm, residual, bias = inputs
    first_token, num_tokens, flops = tokens
    x = replace(x, offset=x.offset + first_token * x.stride)
    format_name = weight.format.name
    kernel = choose_kernel(
        device,
        weight.format.kernels,
        part.num_rows,
        num_tokens,
        gated=bool(gate),
        tile=tile,
        slices=slices,
        precision=precision,
    )
    halves = 2 if gate else 1
    first = part.first_row // halves
    return Dispatch(
        kernel.shader,
        (x.buffer, part.quants, part.scales, *(view.buffer for view in (norm or x, residual or y, bias or y, y, y))),
        (y.buffer,),
        kernel.groups,
        {**constants(device, weight, gate, norm, bias), **kernel.constants},
        {
            "num_tokens": num_tokens,
            "num_rows": part.num_rows,
            "num_blocks": x.shape[1] // 32,
            "num_outputs": min(part.num_rows // halves, y.shape[1] - first),
            **x.fours("x"),
            "y_offset": y.offset + first_token * y.stride + first,
            "y_stride": y.stride,
            "residual_offset": residual.offset + first_token * residual.stride + first if residual else 0,
            "residual_stride": residual.stride if residual else 0,
            "bias_offset": first,
            "up_bias_offset": weight.shape[0] // 2 + first,
            "eps": eps,
            **NO_PAIRS,
        },
        kernel.subgroup_size,
        flops=flops,
        label=f"matmul_{format_name}",
    )


def constants(
    device: Device, weight: PackedMatrix, gate: str, norm: TensorView | None, bias: TensorView | None, pairs: int = 0
) -> dict[str, int | bool]:
    """The specialization constants of matmul_io.glsl and of the weight's format."""
    return {
        "GATE_ROWS": row_lanes(device),
        "HAS_NORM": norm is not None,
        "GATE": GATES[gate],
        "HAS_BIAS": bias is not None,
        "PAIRS": pairs,
        **weight.format.constants,
    }


def variants(device: Device, inputs: Sequence, *, precision: str = "float32", **_: object) -> list[dict]:
    """All tiles, and on a GPU's flavors some of them with three slices; two tiles for a format whose kernels another
    format tests.
    """
    if precision != "float32":
        return [
            {"tile": tile} for tile in (SHARED, *([MATRIX] if precision == "float16" and matrix_size(device) else []))
        ]
    tiles = possible_tiles(device, inputs[1].gated)
    if not has_kernels(inputs[1].format):
        return [{"tile": tile} for tile in (tiles[0], tiles[-1])]
    sliced = [] if device.flavor == "base" else [(4, 1), (4, 4), SHARED]
    return [{"tile": tile} for tile in (*tiles, SHARED)] + [{"tile": tile, "slices": 3} for tile in sliced]


def candidates(
    device: Device, inputs: Sequence, *, gate: str = "", precision: str = "float32", **_: object
) -> list[dict]:
    """Tiles with at most as many tokens as there are, and at least half of the most of these. On a CPU device tiles of
    few rows per lane never win, and compiling them takes longer than the rest of a start; shared memory does not help
    either, since it is ordinary memory there.
    """
    if precision != "float32":
        return []
    num_tokens = inputs[0].shape[0]
    fewest_rows = 4 if device.info.is_cpu else 1
    fitting = [tile for tile in possible_tiles(device, bool(gate)) if tile[1] <= num_tokens and tile[0] >= fewest_rows]
    most_tokens = max(tokens for _, tokens in fitting)
    shared = [SHARED] if num_tokens >= TILE_TOKENS // 2 and not device.info.is_cpu else []
    return [{"tile": tile} for tile in (*(each for each in fitting if each[1] * 2 >= most_tokens), *shared)]


def precision_for(weight: PackedMatrix, wanted: str) -> str:
    """The precision of a product with `weight` when `wanted` is requested: weights that a device holds as numbers have
    no codes for integer products.
    """
    return "float32" if wanted == "int8" and weight.format.scale_words == 0 else wanted


def requires(*, precision: str = "float32", **_: object) -> tuple[str, ...]:
    """Device features that a precision needs."""
    return {"float16": ("float16",), "int8": ("integer_dot_product",)}.get(precision, ())


def job(inputs: tuple[Shaped, PackedMatrix, object, object, object], *, gate: str = "", **_: object) -> str:
    """Format, shape and what is fused, such as "q4_k 128x640x1024 norm"."""
    x, weight, norm, residual, bias = inputs
    words = [word for word, there in (("norm", norm), (gate, gate), ("residual", residual), ("bias", bias)) if there]
    return " ".join([weight.format.name, f"{x.shape[0]}x{weight.shape[0]}x{weight.shape[1]}", *words])


def has_kernels(kind: QuantFormat) -> bool:
    """Whether a format is the first of those that share its kernels."""
    return kind is next(each for each in FORMATS.values() if each.kernels == kind.kernels)


def _case(
    name: str,
    tokens: int,
    rows: int,
    k: int,
    norm: bool = False,
    residual: bool = False,
    bias: bool = False,
    gate: str = "",
    precision: str = "float32",
) -> Case:
    def make(rng: np.random.Generator) -> list:
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
        # int8: a quotient halfway between two multiples may round either way, once in a sum: 3 / 127 times a weight of
        # 0.05. float16: sums of eight products are rounded at each step, by 2^-11 of the partial sum.
        attrs["precision"] = precision
        atol = 1.2e-3 if precision == "int8" else 3e-4 * k**0.5
        return Case(" ".join([f"{name} {tokens}x{rows}x{k}", *words]), make, attrs, atol, 2e-4)
    # Sums of K products of size ~0.1 in another order than BLAS: the rounding error grows as the square root of K.
    return Case(" ".join([f"{name} {tokens}x{rows}x{k}", *words]), make, attrs, 3e-6 * k**0.5, 2e-5)


def _cases() -> Iterator[Case]:
    for name, kind in FORMATS.items():
        k = kind.block_size if kind.block_size == 256 else 3 * max(32, kind.block_size)  # an odd number of blocks
        if has_kernels(kind) and not name.startswith(LOOKED_UP):
            yield _case(name, 1, 200, 3 * k if kind.block_size == 256 else k)
        yield _case(name, 7, 37, k, residual=True)
    for name in ("q4_1", "q6_k"):  # norm and gate do not depend on the format
        yield _case(name, 1, 100, 768, norm=True)
        yield _case(name, 6, 37, 256, norm=True, residual=True)
        yield _case(name, 1, 200, 256, norm=True, gate="silu")
        yield _case(name, 5, 37, 512, gate="gelu")
        yield _case(name, 40, 70, 256, norm=True, gate="silu")
    yield _case("q4_1", 1, 200, 1056, norm=True)  # a GPU's eight slices; of 33 blocks, so that the last one is empty
    for name, kind in FORMATS.items():
        for precision in PRECISIONS[1:] if kind.block_size > 1 else ["float16"]:
            if has_kernels(kind):
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
