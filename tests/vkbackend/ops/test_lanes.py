"""Kernels at 16, 32 and 64 lanes, the subgroup sizes of Intel's, NVIDIA's and AMD's GPUs, on a patched llvmpipe."""

from pathlib import Path

import pytest
import wide_lanes
from vulkan_drivers import LAVAPIPE, finish_all, missing, run_on, start

SIZES = (16, 32, 64)


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
