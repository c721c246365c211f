"""Kernels at 16, 32 and 64 lanes, the subgroup sizes of Intel's, NVIDIA's and AMD's GPUs, on a patched llvmpipe."""

from pathlib import Path

import pytest
import starter_models
import wide_lanes
from vulkan_drivers import LAVAPIPE, finish_all, missing, run_on, start

SIZES = (16, 32, 64)
TOLERANCE = 2e-5  # of log-probabilities: a subgroup of another size adds up attention in another order


@pytest.fixture(scope="module")
def wide_driver(tmp_path_factory) -> Path:
    try:
        return wide_lanes.make(tmp_path_factory.mktemp("wide"), LAVAPIPE.require().manifest)
    except ValueError as error:
        missing(str(error))


@pytest.mark.parametrize("lanes", SIZES)
def test_kernels_are_right_at_the_lanes_of_gpus(wide_driver, lanes, record_figure):
    found = run_on(None, Path("check_lanes.py"), environment=wide_lanes.environment(wide_driver, lanes))
    record_figure(f"kernels at {lanes} lanes: {found['cases']} cases, {found['cpu_seconds']} CPU s")
    assert found["lanes"] == lanes and found["cases"] and not found["failed"]


def test_errors_that_show_at_64_lanes_only_are_found_there(wide_driver):
    half, whole = finish_all(
        [
            start(Path("check_lanes.py"), "--planted", environment=wide_lanes.environment(wide_driver, lanes))
            for lanes in (32, 64)
        ]
    )
    assert half["cases"] and not half["failed"]
    assert {each.split()[0] for each in whole["failed"]} == {"matmul", "rms_norm", "split_heads"}


def test_log_probabilities_do_not_depend_on_lanes(wide_driver, record_figure):
    """Gemma 3 takes too long for every run: python tests/support/lane_logprobs.py MODEL.gguf 16 32 64 compares it."""
    model = starter_models.model_path("smollm2")
    found = run_on(None, Path("lane_logprobs.py"), model, *SIZES, seconds=880)
    record_figure(f"32 tokens of SmolLM2 at 8 to 64 lanes: {found['largest']}, {found['cpu_seconds']} CPU s")
    assert list(found["largest"]) == [str(lanes) for lanes in SIZES]
    for lanes in SIZES:
        kernels = found["kernels"][str(lanes)]
        assert {f"matmul_q4_1_r1_t1_subgroup/{lanes}", f"decode_attention_subgroup/{lanes}"} <= set(kernels)
        assert not [kernel for kernel in kernels if "_texel" in kernel]
    assert max(found["largest"].values()) <= TOLERANCE
