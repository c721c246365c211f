"""Kernels at 32 and 64 lanes, the subgroup sizes of AMD's and NVIDIA's GPUs, on a patched llvmpipe."""

from pathlib import Path

import pytest
import wide_lanes
from vulkan_drivers import LAVAPIPE, missing, run_on


@pytest.fixture(scope="module")
def wide_driver(tmp_path_factory) -> Path:
    try:
        return wide_lanes.make(tmp_path_factory.mktemp("wide"), LAVAPIPE.require().manifest)
    except ValueError as error:
        missing(str(error))


@pytest.mark.parametrize("lanes", [32, 64])
def test_kernels_are_right_at_the_lanes_of_gpus(wide_driver, lanes):
    found = run_on(None, Path("check_lanes.py"), environment=wide_lanes.environment(wide_driver, lanes))
    assert found["lanes"] == lanes and found["cases"] and not found["failed"]
