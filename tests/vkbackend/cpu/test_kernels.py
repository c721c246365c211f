"""The CPU path's kernels against the numpy references, on the ops' own case tables."""

import numpy as np
import pytest
from cpu_programs import reference_outputs, run_case

from vkbackend.cpu.lowering import LOWERINGS
from vkbackend.ops import OPS

CASES = [
    pytest.param(OPS[name], case, id=f"{name}-{case.label}")
    for name in LOWERINGS
    for case in OPS[name].cases
    if "precision" not in case.attrs
]


@pytest.mark.parametrize("op, case", CASES)
def test_agrees_with_the_reference_on_any_number_of_threads(on_ggml, op, case):
    expected, found = reference_outputs(op, case), run_case(op, case, 1)
    assert len(found) == len(expected)
    if op.name == "top_k":
        expected, found = op.canonical(tuple(expected)), op.canonical(tuple(found))
    rounds = op.name in ("matmul", "expert_matmul") and case.make(np.random.default_rng(0))[1].format.name != "f32"
    for one, other in zip(found, expected):
        rows = written_rows(op, case, len(one))
        if rounds:  # activations to 8 bits, or to the weight's 16
            assert np.abs(one - other).mean() <= 0.02 * other.std()
        else:
            np.testing.assert_allclose(one[rows], other[rows], case.rtol, case.atol)
    for threads in (3,):
        again = run_case(op, case, threads)
        if op.name == "top_k":
            again = op.canonical(tuple(again))
        assert all(
            (one[written_rows(op, case, len(one))] == other[written_rows(op, case, len(one))]).all()
            for one, other in zip(again, found)
        )


def written_rows(op, case, count: int) -> slice | np.ndarray:
    """Rows of outputs that are defined: those of unused slots are not written."""
    at = {"split_heads": 1, "attention": 3, "route": 2}.get(op.name)
    if at is None:
        return slice(None)
    positions = case.make(np.random.default_rng(0))[at]
    return np.flatnonzero(positions >= 0) if len(positions) == count else slice(None)
