"""One logit of each row: y[m] = logits[m, ids[m]], zero where ids[m] is negative (an unused row).

logits: (M, V) f32, ids: (M,) i32 -> (M,) f32. What is left to read of a prompt's tokens, whose rows nobody samples
from.
"""

import numpy as np

from ..device.dispatch import Dispatch
from .op import Case, Op, ceil_div
from .signature import Signature


def reference(logits, ids):
    return np.where(ids < 0, np.float32(0), logits[np.arange(len(ids)), np.maximum(ids, 0)])


def dispatch(device, inputs, outputs):
    logits, ids = inputs
    rows = ids.shape[0]
    return [
        Dispatch(
            "pick_logits",
            (logits.buffer, ids.buffer),
            (outputs[0].buffer,),
            (ceil_div(rows, 64), 1, 1),
            push={"rows": rows, **logits.elements("logits")},
            label="pick_logits",
        )
    ]


def _case(label, rows, vocabulary, ids):
    return Case(
        label, lambda rng: [rng.standard_normal((rows, vocabulary), np.float32), np.array(ids, np.int32)], {}, 0, 0
    )


OP = Op(
    "pick_logits",
    reference,
    dispatch,
    (
        _case("one", 1, 49152, [49151]),
        _case("unused rows", 4, 203, [202, -1, 0, -1]),
        _case("many", 70, 33, [at % 33 for at in range(70)]),
    ),
    Signature("logits (M, V) f32", "ids (M) i32"),
)
