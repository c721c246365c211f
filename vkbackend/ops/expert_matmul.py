"""Matrix product of each token with the weights of the experts that it uses, otherwise as `matmul`:
y = [act(gate) * up of] (rms_norm(x) or x) W_e^T [+ bias_e], dequantized on the fly, summed in f32.

x: (R, K) f32, a row for each token or, if it is the output of such a product, for each pair of a token and an expert.
weight: (experts * N, K), the rows of all experts one after the other; ids: (T, used) i32, the experts of each token,
-1: none; order: from `pairs_by_expert` with the same `tile`, or None with a tile of 1; norm: (K,) f32 or None, bias:
(experts * N,) f32 or None -> (T * used, N) f32, a row for each pair. gate: see `matmul`; the gates of all experts are
before the first up. Rows of pairs without an expert are not written on the device; the twin gives zeros.

Every (row, pair) has the order of sums of `matmul`: its bits depend neither on other tokens nor on `tile`. Weights of
experts that no token uses are not read.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from . import elementwise, rms_norm
from .matmul import GATES, constants
from .matmul_kernels import SHARED, TILE_TOKENS, Tile, choose_kernel, choose_tile, num_slices
from .op import Case, Op, TensorView, ceil_div, token_ranges
from .packed import PackedMatrix, PackedRows
from .packing import row_lanes
from .pairs_by_expert import reference as order_of
from .signature import Signature

PAIRS_ALL, PAIRS_ORDERED = 1, 2  # of shaders/matmul_io.glsl


def reference(
    x: np.ndarray,
    weight: PackedMatrix,
    ids: np.ndarray,
    order: np.ndarray | None = None,
    norm: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    *,
    eps: float = 0.0,
    gate: str = "",
    tile: int = 1,
) -> np.ndarray:
    """The numpy twin. Rows are multiplied one by one, so that their bits do not depend on the rest of the step."""
    if norm is not None:
        x = rms_norm.reference(x, norm, eps=eps)
    flat, per_row = ids.ravel(), ids.size // len(x)
    halves = 2 if gate else 1
    rows = weight.shape[0] // halves // weight.experts  # of an expert, in each half
    y = np.zeros((len(flat), halves * rows), np.float32)
    for expert in np.unique(flat[flat >= 0]):
        for half in range(halves):
            first = (half * weight.experts + int(expert)) * rows
            matrix = weight.dequantized(first, first + rows)
            for pair in np.flatnonzero(flat == expert):
                part = y[pair, half * rows : (half + 1) * rows]
                np.matmul(matrix, x[pair // per_row], out=part)
                if bias is not None:
                    part += bias[first : first + rows]
    if gate:
        y = elementwise.gated(gate, y[:, :rows], y[:, rows:])
    return y


def dispatch(
    device: Device,
    inputs: Sequence,
    outputs: Sequence[TensorView],
    *,
    eps: float = 0.0,
    gate: str = "",
    tile: int = 1,
    kernel_tile: Tile | None = None,
    slices: int = 0,
) -> list[Dispatch]:
    """One dispatch per part of the weight, or several for many pairs. kernel_tile: rows and tokens per lane, or SHARED;
    None lets `choose_pairs_tile` decide. slices: 0 lets `num_slices` decide.
    """
    x, weight, ids, order = inputs[:4]
    k = weight.shape[1]
    num_pairs = ids.shape[0] * ids.shape[1]
    rows = weight.shape[0] // weight.experts  # of an expert, both halves
    slots = order.shape[0] if order is not None else num_pairs
    kernel_tile = kernel_tile or choose_pairs_tile(device, tile, num_pairs, weight, bool(gate))
    slices = slices or num_slices(device, k)
    return [
        _dispatch_part(device, part, some, inputs, outputs[0], eps, gate, kernel_tile, slices)
        for part in weight.parts
        for some in token_ranges(slots, 2 * rows * k)
    ]


def _dispatch_part(
    device: Device,
    part: PackedRows,
    some: tuple[int, int, int],
    inputs: Sequence,
    y: TensorView,
    eps: float,
    gate: str,
    kernel_tile: Tile,
    slices: int,
) -> Dispatch:
    """some: slots, one of `token_ranges`."""
    x, weight, ids, order, norm, bias = inputs
    first_slot, num_slots, flops = some
    lanes = row_lanes(device)
    halves = 2 if gate else 1
    rows = weight.shape[0] // halves // weight.experts
    first_expert = part.first_row // (halves * rows)
    kernel = choose_kernel(
        device,
        weight.format.kernels,
        2 * ceil_div(rows, lanes) * lanes if gate else rows,
        num_slots,
        gated=bool(gate),
        tile=kernel_tile,
        slices=slices,
        precision="float32",
    )
    return Dispatch(
        kernel.shader,
        (x.buffer, part.quants, part.scales, *(view.buffer for view in (norm or x, y, bias or y, ids, order or ids))),
        (y.buffer,),
        kernel.groups,
        {
            **constants(device, weight, gate, norm, bias, PAIRS_ALL if order is None else PAIRS_ORDERED),
            **kernel.constants,
        },
        {
            "num_tokens": num_slots,
            "num_rows": part.num_rows,
            "num_blocks": x.shape[1] // 32,
            "num_outputs": rows,
            **x.fours("x"),
            "y_offset": y.offset,
            "y_stride": y.stride,
            "residual_offset": 0,
            "residual_stride": 0,
            "bias_offset": first_expert * rows,
            "up_bias_offset": (weight.experts + first_expert) * rows,
            "eps": eps,
            "first_slot": first_slot,
            "num_pairs": y.shape[0],
            "pairs_per_row": y.shape[0] // x.shape[0],
            "first_expert": first_expert,
            "num_experts": min(part.num_rows // (halves * rows), weight.experts - first_expert),
        },
        kernel.subgroup_size,
        flops=flops,
        label=f"expert_matmul_{weight.format.name}",
    )


def choose_pairs_tile(device: Device, tile: int, num_pairs: int, weight: PackedMatrix, gated: bool) -> Tile:
    """Rows and tokens per lane. tile: pairs of an expert that are neighbors.

    A GPU waits for weights rather than for products, so its tiles hold more tokens than an expert has on average. All
    kernels compute the same bits.
    """
    if tile >= TILE_TOKENS and not device.info.is_cpu:
        return SHARED
    active = min(weight.experts, num_pairs)
    average = num_pairs // active
    tokens = min(tile, average if device.info.is_cpu else max(average, 4))
    return choose_tile(device, tokens, weight.shape[0] // weight.experts * active, gated)


def variants(device: Device, inputs: Sequence, *, tile: int = 1, **_: object) -> list[dict]:
    """The tile that models use on a GPU, or where that needs none of shared memory. `matmul` checks the other tiles:
    they differ in their numbers of rows and tokens only.
    """
    return [{"kernel_tile": SHARED} if tile >= TILE_TOKENS else {}]


def _case(
    name: str,
    tokens: int,
    used: int,
    experts: int,
    rows: int,
    k: int,
    *,
    tile: int = 1,
    per_pair: bool = False,
    norm: bool = False,
    bias: bool = False,
    gate: str = "",
) -> Case:
    def make(rng: np.random.Generator) -> list:
        # The first expert is used by no token: its weights are no numbers where the format allows it.
        ids = np.stack([1 + rng.permutation(experts - 1)[:used] for _ in range(tokens)]).astype(np.int32)
        weight = PackedMatrix.random(rng, name, experts * rows, k, bool(gate), experts=experts)
        if name == "f32":
            for raw in weight.raws:
                raw.view(np.float32)[:rows] = np.nan
        return [
            rng.standard_normal((tokens * used if per_pair else tokens, k), np.float32),
            weight,
            ids,
            order_of(ids, experts=experts, tile=tile) if tile > 1 else None,
            rng.uniform(0.5, 1.5, k).astype(np.float32) if norm else None,
            rng.standard_normal(experts * rows * (2 if gate else 1), np.float32) if bias else None,
        ]

    words = [word for word, there in (("norm", norm), (gate, gate), ("bias", bias), ("pairs", per_pair)) if there]
    attrs = {"tile": tile, "eps": 1e-5, "gate": gate}
    return Case(" ".join([f"{name} {tokens}x{used}of{experts}x{rows}x{k}", *words]), make, attrs, 3e-6 * k**0.5, 2e-5)


def _cases() -> Iterator[Case]:
    yield _case("f32", 1, 3, 7, 37, 96, norm=True, gate="silu")
    yield _case("f32", 9, 2, 5, 37, 96, tile=8, norm=True, bias=True, gate="silu")
    yield _case("q4_k", 3, 2, 6, 70, 256, tile=4, per_pair=True, bias=True)
    yield _case("q8_0", 70, 2, 3, 48, 96, tile=32, bias=True)
    yield _case("iq3_s", 3, 2, 4, 37, 256, tile=4)


OP = Op(
    "expert_matmul",
    reference,
    dispatch,
    tuple(_cases()),
    Signature(
        "x (R, K) f32",
        "weight (rows, K) packed",
        "ids (T, used) i32",
        "order? (slots) i32",
        "norm? (K) f32",
        "bias? (rows) f32",
        multiples={"K": 32},
        rules=(
            (f"gate must be one of {', '.join(map(repr, GATES))}", lambda s: s.get("gate", "") in GATES),
            (
                "a gate needs a gated weight, and a gated weight a gate",
                lambda s: bool(s.get("gate", "")) == s["weight"].gated,
            ),
            ("x must have a row for each token or for each pair", lambda s: s["R"] in (s["T"], s["T"] * s["used"])),
            (
                "without an order the tile is 1",
                lambda s: s["order"] is not None or s.get("tile", 1) == 1,
            ),
        ),
    ),
    variants=variants,
)
