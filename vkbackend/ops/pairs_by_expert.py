"""The order in which products by expert take their pairs of a token and an expert, so that each expert's weights are
read once for all its tokens.

ids: (T, used) i32, the experts of each token; -1: none -> order (slots,) i32: the pairs (token * used + place) of
expert 0 in rising order, -1 up to a multiple of `tile`, then those of expert 1, and so on; -1 to the end.
"""

from collections.abc import Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from .op import Case, Op, TensorView
from .route import MAX_EXPERTS
from .signature import Signature

TILES = (1, 2, 4, 8, 32)  # pairs of one expert that a kernel takes at a time
MANY = 16  # pairs per expert from which on tiles are of 32


def best_tile(num_tokens: int, used: int, experts: int) -> int:
    """The tile for a step: as few as hold all tokens, or what the kernels for many tokens take."""
    if num_tokens * used >= MANY * experts and num_tokens >= TILES[-1]:
        return TILES[-1]
    return next((tile for tile in TILES[:-1] if tile >= num_tokens), TILES[-2])


def num_slots(num_tokens: int, used: int, experts: int, tile: int) -> int:
    """The most slots that any choice of experts takes: a token uses an expert once."""
    pairs = num_tokens * used
    active = min(experts, pairs)
    tiles = active if num_tokens <= tile else (pairs + active * (tile - 1)) // tile
    return tiles * tile


def reference(ids: np.ndarray, *, experts: int, tile: int) -> np.ndarray:
    """The numpy twin."""
    num_tokens, used = ids.shape
    order = np.full(num_slots(num_tokens, used, experts, tile), -1, np.int32)
    flat = ids.ravel()
    by_expert = np.argsort(flat, kind="stable")
    by_expert = by_expert[flat[by_expert] >= 0]
    counts = np.bincount(flat[by_expert], minlength=experts)
    padded = -(-counts // tile) * tile
    within = np.arange(len(by_expert)) - np.repeat(np.cumsum(counts) - counts, counts)
    order[np.repeat(np.cumsum(padded) - padded, counts) + within] = by_expert
    return order


def dispatch(
    device: Device, inputs: Sequence[TensorView], outputs: Sequence[TensorView], *, experts: int, tile: int
) -> list[Dispatch]:
    """One workgroup, in which every thread collects the pairs of some experts."""
    ids = inputs[0]
    return [
        Dispatch(
            "pairs_by_expert",
            (ids.buffer,),
            (outputs[0].buffer,),
            (1, 1, 1),
            push={
                "num_pairs": ids.shape[0] * ids.shape[1],
                "num_experts": experts,
                "tile": tile,
                "num_slots": outputs[0].shape[0],
            },
            label="pairs_by_expert",
        )
    ]


def _case(label: str, tokens: int, used: int, experts: int, tile: int, unused: int = 0) -> Case:
    def make(rng: np.random.Generator) -> list:
        ids = np.stack([rng.permutation(experts)[:used] for _ in range(tokens)]).astype(np.int32)
        ids[tokens - unused :] = -1
        return [ids]

    return Case(label, make, {"experts": experts, "tile": tile}, 0, 0)


OP = Op(
    "pairs_by_expert",
    reference,
    dispatch,
    (
        _case("decode", 3, 4, 300, 4),
        _case("prompt", 150, 8, 64, 8, unused=7),
        _case("many tokens", 600, 2, 5, 32),
    ),
    Signature(
        "ids (T, used) i32",
        rules=(
            (f"tile must be one of {', '.join(map(str, TILES))}", lambda s: s["tile"] in TILES),
            (f"at most {MAX_EXPERTS} experts", lambda s: s["experts"] <= MAX_EXPERTS),
        ),
    ),
)
