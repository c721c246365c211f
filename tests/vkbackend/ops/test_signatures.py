"""What ops refuse: wrong shapes and dtypes are a ValueError that names the argument, alike on the device and for the
twin.
"""

import numpy as np
import pytest

from vkbackend.ops import OPS
from vkbackend.ops.op import TensorView
from vkbackend.ops.packed import PackedMatrix
from vkbackend.ops.run import reference, run
from vkbackend.ops.signature import PACKED, Signature


def f32(*shape):
    return np.ones(shape, np.float32)


def i32(*values):
    return np.array(values, np.int32)


def attention(head_dim=16, **changes):
    given = {
        "q": f32(1, 4, head_dim),
        "k_cache": f32(4, 16, 2, head_dim),
        "v_cache": f32(4, 16, 2, head_dim),
        "positions": i32(3),
        "sequences": i32(0),
        "page_table": i32(0, 1, 2, 3)[None],
    } | changes
    return "attention", list(given.values()), {"scale": 0.2}


def kv_write(width=8, dtype=np.float16):
    return (
        "kv_write",
        [
            f32(2, 1, width),
            f32(2, 1, width),
            i32(0, 1),
            i32(0, 0),
            i32(1, 0)[None],
            np.zeros((2, 4, 1, width), dtype),
            np.zeros((2, 4, 1, width), dtype),
        ],
        {},
    )


def split_heads(heads=4, q_norm=None, k_norm=None, n_rot=8, **attrs):
    return (
        "split_heads",
        [
            f32(1, heads, 8),
            i32(0),
            i32(0),
            i32(0)[None],
            f32(n_rot + 1),
            q_norm,
            k_norm,
            f32(1, 4, 1, 8),
            f32(1, 4, 1, 8),
        ],
        {"n_rot": n_rot, "pairing": "halves", **attrs},
    )


def decode_attention(**changes):
    _, inputs, attrs = split_heads(**{"heads": 6, **changes})
    inputs[7:] = f32(1, 4, 2, 8), f32(1, 4, 2, 8)
    return "decode_attention", inputs, attrs | {"scale": 1.0}


RNG = np.random.default_rng(1)
PLAIN, GATED = PackedMatrix.random(RNG, "q8_0", 8, 64), PackedMatrix.random(RNG, "q8_0", 8, 64, gated=True)
ROPE = [f32(2, 3, 8), i32(0, 1), f32(9)]

REFUSED = {
    "odd width": (
        ("rms_norm", [f32(3, 577), f32(577)], {"eps": 1e-5}),
        r"rms_norm: x is float32 \(3, 577\); it must be .* with n a multiple of 4",
    ),
    "odd heads": (("rms_norm", [f32(3, 2, 18), f32(18)], {"eps": 1e-5}), "n a multiple of 4"),
    "weight of another width": (
        ("rms_norm", [f32(3, 576), f32(100)], {"eps": 1e-5}),
        r"rms_norm: weight is float32 \(100,\); it must be float32 \(n,\) where n = 576",
    ),
    "residual of another shape": (
        ("rms_norm", [f32(3, 2, 8), f32(8), f32(3, 8)], {"eps": 1e-5}),
        "rms_norm: residual is",
    ),
    "float64": (("rms_norm", [np.ones((3, 576)), f32(576)], {"eps": 1e-5}), "rms_norm: x is float64 .*must be float32"),
    "softmax": (("softmax", [f32(2, 7)], {}), "softmax: x is .* n a multiple of 4"),
    "log_softmax": (("log_softmax", [f32(8)], {}), r"log_softmax: x is float32 \(8,\); it must be float32 \(rows, n\)"),
    "add": (("add", [f32(3, 6), f32(3, 6)], {}), "add: a is .* n a multiple of 4"),
    "add of two shapes": (
        ("add", [f32(3, 8), f32(2, 8)], {}),
        r"add: b is float32 \(2, 8\); it must be float32 \(rows, n\) where rows = 3, n = 8",
    ),
    "scale of a vector": (("scale", [f32(8)], {"factor": 2.0}), r"scale: a is float32 \(8,\)"),
    "a list": (("scale", [[[1.0]]], {"factor": 2.0}), "scale: a is list"),
    "gather_rows": (("gather_rows", [f32(5, 7), i32(1)], {}), "gather_rows: x is .* n a multiple of 4"),
    "int64": (("gather_rows", [f32(5, 8), np.array([1])], {}), "gather_rows: rows is int64 .*must be int32"),
    "pick_logits": (
        ("pick_logits", [f32(5, 8), i32(1)], {}),
        r"pick_logits: ids is int32 \(1,\); it must be int32 \(M,\) where M = 5",
    ),
    "head_dim 20": (attention(20), "attention: q is .*head_dim a multiple of 8"),
    "head_dim 12": (attention(12), "head_dim a multiple of 8"),
    "grouping": (attention(q=f32(1, 3, 16)), "heads must be a multiple of kv_heads"),
    "two cache dtypes": (attention(v_cache=np.zeros((4, 16, 2, 16), np.float16)), "must have one dtype"),
    "two cache shapes": (attention(v_cache=f32(4, 8, 2, 16)), "attention: v_cache is"),
    "float64 cache": (
        attention(k_cache=np.zeros((4, 16, 2, 16))),
        "attention: k_cache is float64 .*must be float32 or float16|float16 or float32",
    ),
    "positions": (attention(positions=i32(3, 4)), "attention: positions is .* where T = 1"),
    "odd cache row": (kv_write(5), "with head_dim a multiple of 2"),
    "odd cache row, f32": (kv_write(7, np.float32), "with head_dim a multiple of 2"),
    "rope beyond the head": (
        ("rope", [f32(2, 3, 4), i32(0, 1), f32(9)], {"n_rot": 8, "pairing": "halves"}),
        "n_rot must not exceed head_dim",
    ),
    "rope's turns": (
        ("rope", [f32(2, 3, 8), i32(0, 1), f32(6)], {"n_rot": 8, "pairing": "halves"}),
        r"rope: turns is float32 \(6,\)",
    ),
    "rope's pairs": (
        ("rope", [f32(2, 3, 9), i32(0, 1), f32(10)], {"n_rot": 9, "pairing": "halves"}),
        "n_rot a multiple of 2",
    ),
    "pairing": (("rope", ROPE, {"n_rot": 8, "pairing": "neox"}), "pairing must be one of adjacent, halves"),
    "no queries": (split_heads(heads=2), r"heads \+ 2 kv_heads"),
    "grouping in decode": (decode_attention(heads=5), "heads must be a multiple of kv_heads"),
    "one norm in decode": (decode_attention(k_norm=f32(8)), "must be given together"),
    "one norm": (split_heads(q_norm=f32(8)), "must be given together"),
    "partial rotation": (split_heads(n_rot=6), "n_rot a multiple of 4"),
    "embed": (("embed", [np.zeros(2), PLAIN], {}), "embed: tokens is float64"),
    "matmul's K": (
        ("matmul", [f32(3, 32), PLAIN], {}),
        r"matmul: weight is packed \(8, 64\); it must be PackedMatrix \(N, K\) where .*K = 32",
    ),
    "matmul's K of an array": (("matmul", [f32(3, 36), f32(8, 36)], {}), "K a multiple of 32"),
    "float64 weight": (("matmul", [f32(3, 64), np.ones((8, 64))], {}), "matmul: weight is float64 .*must be float32"),
    "matmul's residual": (
        ("matmul", [f32(3, 64), PLAIN, None, f32(3, 16)], {}),
        "residual must have the output's columns",
    ),
    "gate without gated": (("matmul", [f32(3, 64), PLAIN], {"gate": "silu"}), "a gate needs a gated weight"),
    "gated without gate": (("matmul", [f32(3, 64), GATED], {}), "a gate needs a gated weight"),
    "unknown gate": (("matmul", [f32(3, 64), GATED], {"gate": "relu"}), "gate must be one of"),
    "top_k": (("top_k", [f32(2, 100)], {"k": 0}), "k must be at least 1"),
    "missing": (("add", [f32(2, 8)], {}), "add: b is missing; it must be float32"),
    "too many": (("scale", [f32(2, 8), f32(2, 8)], {"factor": 1.0}), "scale: 2 arguments given, it takes 1: a"),
    "unknown op": (("convolve", [f32(2, 8)], {}), "no op 'convolve'; there are: add, attention"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused(device, name):
    """The same sentence from the device and the twin."""
    (op, inputs, attrs), said = REFUSED[name]
    for call in (lambda: run(device, op, *inputs, **attrs), lambda: reference(op, *inputs, **attrs)):
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.parametrize("name", OPS)
def test_every_op_refuses_other_dtypes_and_too_many_arguments(name):
    case = OPS[name].cases[0]
    inputs = case.make(np.random.default_rng(0))
    with pytest.raises(ValueError, match=f"{name}: {OPS[name].signature.arguments[0].name} is float64 .*; it must be"):
        reference(name, inputs[0].astype(np.float64), *inputs[1:], **case.attrs)
    with pytest.raises(ValueError, match=f"{name}: {len(OPS[name].signature.arguments) + 1} arguments given"):
        reference(name, *OPS[name].signature.complete(name, inputs), f32(1), **case.attrs)


def test_what_is_next_to_the_refused_is_right(device):
    """The smallest change that is allowed computes what the twin computes."""
    for op, inputs, attrs in (
        ("rms_norm", [f32(3, 576) * 3, f32(576)], {"eps": 1e-5}),
        attention(24),
        kv_write(6),
        split_heads(heads=3),
        decode_attention(),
        split_heads(q_norm=f32(8), k_norm=f32(8)),
        ("softcap", [f32(3, 7) * 9], {"cap": 5.0}),
        ("layer_norm", [f32(3, 8), f32(8)], {"eps": 1e-5}),
        ("gather_rows", [f32(5, 8), i32(1)], {}),
        ("embed", [i32(1, 2), PLAIN], {}),
    ):
        found, expected = run(device, op, *inputs, **attrs), reference(op, *inputs, **attrs)
        for one, other in zip(
            found if isinstance(found, tuple) else (found,), expected if isinstance(expected, tuple) else (expected,)
        ):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=op)


def test_float32_array_is_a_weight(device):
    rng = np.random.default_rng(3)
    x, weight = rng.standard_normal((3, 96), np.float32), rng.standard_normal((37, 96), np.float32)
    np.testing.assert_allclose(run(device, "matmul", x, weight), x @ weight.T, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(reference("matmul", x, weight), x @ weight.T, rtol=1e-5, atol=1e-4)
    every_second = np.repeat(weight, 2, axis=0)[::2]
    np.testing.assert_allclose(run(device, "matmul", x, every_second), x @ weight.T, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(run(device, "embed", i32(5, 0), weight), weight[[5, 0]])


def test_dispatches_of_graphs_are_checked(device):
    """Where a step is recorded, the same signature is asked: here of views of device memory."""
    buffer = device.memory(1024, "device")
    view = TensorView(buffer, (2, 6))
    with pytest.raises(ValueError, match=r"silu_mul: gate is float32 \(2, 6\)"):
        OPS["silu_mul"].record(device, [view, view], [view])


def test_signatures_allow_every_case():
    for op in OPS.values():
        for case in op.cases:
            op.signature.check(op.name, case.make(np.random.default_rng(0)), case.attrs)


def test_signature_lines():
    signature = Signature("x (T, ..., n) f32", "tables? (T, ...) f16|i32", "w (n) packed")
    x, tables, w = signature.arguments
    assert (str(x), tables.kinds, tables.optional, w.kinds) == (
        "float32 (T, ..., n)",
        ("float16", "int32"),
        True,
        (PACKED,),
    )
    assert signature.complete("op", [1, None, 2]) == [1, None, 2]
    with pytest.raises(ValueError, match="op: w is missing"):
        signature.complete("op", [1, 2])
