"""Router of a mixture of experts: the experts that each token uses, and their weights.

logits: (T, experts) f32, bias: (experts,) f32 or None, positions: (T,) i32 -> ids (T, used) i32, weights (T, used) f32.

Probabilities are the softmax of a token's logits over all experts, or their sigmoids. The `used` experts with the
highest probability (plus bias, which counts for the choice only) are chosen, in falling order; of equals, those with
lower numbers. With `groups`, only experts of the `groups_used` groups with the highest sum of their two best are
(DeepSeek-AI 2024, https://arxiv.org/abs/2412.19437, section 2.1.2). weights: their probabilities, divided by their sum
if `renormalize`, times `factor`. Unused tokens (position -1) get ids of -1 and weights of 0.
"""

from collections.abc import Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from .op import Case, Op, TensorView, group_variant
from .signature import Signature

GATINGS = {"softmax": 0, "sigmoid": 1}  # GATING_* of shaders/route.comp
MAX_EXPERTS = 1024  # of shaders/route.comp and pairs_by_expert.comp
MAX_USED = 64
LOWEST = np.float32(-3.0e38)
LEAST_SUM = np.float32(2.0**-14)  # divisor of weights whose sum is less


def reference(
    logits: np.ndarray,
    bias: np.ndarray | None,
    positions: np.ndarray,
    *,
    used: int,
    gating: str = "softmax",
    renormalize: bool = False,
    factor: float = 1.0,
    groups: int = 1,
    groups_used: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """The numpy twin."""
    probabilities = _probabilities(logits, gating)
    scores = probabilities if bias is None else probabilities + bias
    scores = np.where(scores > LOWEST, scores, LOWEST)
    if groups > 1:
        scores = _of_best_groups(scores, groups, groups_used)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :used].astype(np.int32)
    weights = np.take_along_axis(probabilities, ids, 1)
    if renormalize:
        weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), LEAST_SUM)
    weights = weights * np.float32(factor)
    is_unused = positions[:, None] < 0
    return np.where(is_unused, np.int32(-1), ids), np.where(is_unused, np.float32(0), weights)


def _probabilities(logits: np.ndarray, gating: str) -> np.ndarray:
    if gating == "sigmoid":
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-logits))
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _of_best_groups(scores: np.ndarray, groups: int, groups_used: int) -> np.ndarray:
    """The scores, with LOWEST for experts of the other groups."""
    split = scores.reshape(len(scores), groups, -1)
    of_group = np.sort(split, axis=2)[:, :, -2:].sum(axis=2)
    best = np.argsort(-of_group, axis=1, kind="stable")[:, :groups_used]
    is_best = np.zeros(of_group.shape, bool)
    np.put_along_axis(is_best, best, True, 1)
    return np.where(is_best[:, :, None], split, LOWEST).reshape(scores.shape)


def dispatch(
    device: Device,
    inputs: Sequence[TensorView],
    outputs: Sequence[TensorView],
    *,
    used: int,
    gating: str = "softmax",
    renormalize: bool = False,
    factor: float = 1.0,
    groups: int = 1,
    groups_used: int = 1,
) -> list[Dispatch]:
    """One group of lanes per token."""
    logits, bias, positions = inputs
    ids, weights = outputs
    name, lanes, size = group_variant(device, "route", ("base", "subgroup"))
    return [
        Dispatch(
            name,
            (logits.buffer, (bias or logits).buffer, positions.buffer),
            (ids.buffer, weights.buffer),
            (logits.shape[0], 1, 1),
            {"LANES": lanes, "GATING": GATINGS[gating], "HAS_BIAS": bias is not None, "RENORMALIZE": renormalize},
            {
                "num_experts": logits.shape[1],
                "num_used": used,
                **logits.elements("logits"),
                **weights.elements("weights"),
                "num_groups": groups,
                "groups_used": groups_used,
                "factor": factor,
            },
            size,
            label="route",
        )
    ]


def _case(label: str, tokens: int, experts: int, used: int, bias: bool = False, **attrs: object) -> Case:
    def make(rng: np.random.Generator) -> list:
        # Shuffled steps: no two experts are so close that rounding decides.
        steps = np.linspace(-4, 4, experts, dtype=np.float32)
        logits = np.stack([rng.permutation(steps) for _ in range(tokens)])
        positions = np.arange(tokens, dtype=np.int32)
        if tokens > 2:
            positions[1] = -1
        return [logits, rng.permutation(steps) * np.float32(0.1037) if bias else None, positions]

    return Case(label, make, {"used": used, **attrs}, 1e-6, 2e-5)


OP = Op(
    "route",
    reference,
    dispatch,
    (
        _case("softmax", 1, 128, 8, renormalize=True),
        _case("not renormalized", 5, 60, 4),
        _case("sigmoid with bias", 3, 37, 6, bias=True, gating="sigmoid", renormalize=True, factor=2.5),
        _case("all of a few", 2, 3, 3, gating="sigmoid"),
        _case("groups", 4, 64, 8, bias=True, gating="sigmoid", groups=8, groups_used=3, renormalize=True),
    ),
    Signature(
        "logits (T, experts) f32",
        "bias? (experts) f32",
        "positions (T) i32",
        rules=(
            (f"gating must be one of {', '.join(GATINGS)}", lambda s: s.get("gating", "softmax") in GATINGS),
            (f"at most {MAX_EXPERTS} experts", lambda s: s["experts"] <= MAX_EXPERTS),
            (
                f"used must be 1 to {MAX_USED}, and at most the experts",
                lambda s: 1 <= s["used"] <= min(MAX_USED, s["experts"]),
            ),
            (
                "groups must divide the experts, and groups_used be 1 to groups",
                lambda s: s["experts"] % s.get("groups", 1) == 0 and 1 <= s.get("groups_used", 1) <= s.get("groups", 1),
            ),
        ),
    ),
)
