"""The lanes of kernels by driver: which sizes kernels require, and products whose lanes differ from the weight's."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vkbackend import check
from vkbackend.device import discover
from vkbackend.device import vulkan_constants as vk
from vkbackend.device.context import Device
from vkbackend.device.device_info import SUBGROUP_FEATURES, DeviceType
from vkbackend.device.dispatch import COMPILING_LIMIT_NS, RUN_LIMIT_NS, Recording
from vkbackend.ops import OPS, attention, matmul, matmul_kernels, packing
from vkbackend.ops.op import group_variant, head_variant
from vkbackend.ops.run import reference

INTEL = vk.VK_DRIVER_ID_INTEL_OPEN_SOURCE_MESA


@pytest.fixture
def gpu(device, monkeypatch):
    """gpu(smallest, own, largest, **changes): the default device described as a GPU with these subgroup sizes."""

    def described(smallest: int, own: int, largest: int, **changes: object) -> Device:
        sizes = {"subgroup_min": smallest, "subgroup_size": own, "subgroup_max": largest}
        info = replace(
            device.info,
            type=DeviceType.INTEGRATED,
            features=device.info.features | SUBGROUP_FEATURES,
            **sizes,
            **{"driver_id": 0, **changes},
        )
        monkeypatch.setattr(device, "info", info)
        monkeypatch.setattr(device, "flavor", info.flavors[0])
        monkeypatch.setattr(device, "lanes", info.lanes)
        return device

    return described


def lanes_of_tiles(device: Device, gated: bool = False) -> dict:
    return {
        tile: matmul_kernels.tile_lanes(device, tile) for tile in matmul_kernels.possible_tiles(device, gated=gated)
    }


def test_most_drivers_kernels_take_the_drivers_own_lanes(gpu):
    device = gpu(32, 64, 64)
    assert lanes_of_tiles(device) == dict.fromkeys(matmul_kernels.TILES["subgroup"], 64)
    assert group_variant(device, "rms_norm") == ("rms_norm_subgroup", 64, 64)
    assert head_variant(device, "attention") == ("attention_subgroup", 64, 64)


def test_intels_kernels_take_lanes_at_which_they_do_not_spill(gpu):
    device = gpu(8, 32, 32, driver_id=INTEL)
    assert lanes_of_tiles(device) == {(1, 1): 16, (2, 1): 16, (4, 1): 8, (4, 2): 8, (2, 4): 8}
    assert lanes_of_tiles(device, gated=True) == {(2, 1): 16, (4, 1): 8, (4, 2): 8, (2, 4): 8}
    assert packing.row_lanes(device) == 16 and group_variant(device, "rms_norm")[1:] == (16, 16)
    assert {head_variant(device, name)[1] for name in ("attention", "decode_attention", "split_heads")} == {8}
    assert [attention.together(device, 16, 4, head_dim) for head_dim in (64, 128, 256)] == [2, 1, 1]


def test_a_driver_without_small_subgroups_gets_its_smallest(gpu):
    device = gpu(16, 32, 32, driver_id=INTEL)
    assert set(lanes_of_tiles(device).values()) == {16} and head_variant(device, "attention")[1] == 16


def test_check_tries_all_tiles_at_other_lanes_than_the_rules(gpu):
    device = gpu(8, 32, 32, driver_id=INTEL)
    device.lanes = 32
    assert lanes_of_tiles(device) == dict.fromkeys(matmul_kernels.TILES["subgroup"], 32)


@pytest.mark.parametrize("size", [1, 2])
def test_subgroups_for_which_no_kernel_is_made_take_the_base_kernels(gpu, size):
    assert gpu(size, size, size).info.flavors == ("base",)


def test_tiles_whose_sums_exceed_shared_memory_are_not_used(gpu):
    device = gpu(128, 128, 128)
    limits = replace(device.info.limits, max_shared_memory_bytes=16384)
    device = gpu(128, 128, 128, limits=limits)
    assert matmul_kernels.shared_bytes(device, (4, 8)) == 20480
    tiles = lanes_of_tiles(device)
    assert (4, 8) not in tiles and (8, 4) not in tiles and (8, 1) in tiles and (4, 4) in tiles


@pytest.mark.parametrize("stages, expected", [(vk.VK_SHADER_STAGE_COMPUTE_BIT, True), (1, False), (0, False)])
def test_subgroup_sizes_are_required_only_where_compute_kernels_may(monkeypatch, stages, expected):
    control = SimpleNamespace(subgroupSizeControl=1, computeFullSubgroups=1)
    core = SimpleNamespace(features=SimpleNamespace(shaderFloat64=0, shaderInt64=0, shaderInt16=0))
    chain = (core, {discover.SUBGROUP_SIZE_CONTROL: control})
    monkeypatch.setattr(discover, "FEATURE_MEMBERS", {name: ("", "") for name in discover.FEATURE_MEMBERS})
    monkeypatch.setattr(discover, "feature_chain", lambda physical, api, extensions: chain)
    subgroup = SimpleNamespace(supportedStages=vk.VK_SHADER_STAGE_COMPUTE_BIT, supportedOperations=0)
    size_control = SimpleNamespace(requiredSubgroupSizeStages=stages)
    features = discover._features(None, 0, frozenset(), subgroup, size_control)
    assert ("subgroup_size_control" in features) is expected


def test_a_driver_that_compiles_while_a_step_runs_gets_more_time(device):
    for driver_id, expected in ((vk.VK_DRIVER_ID_MESA_LLVMPIPE, COMPILING_LIMIT_NS), (INTEL, RUN_LIMIT_NS)):
        limits: list[int] = []
        submission = SimpleNamespace(submit=limits.append, wait=limits.append)
        described = SimpleNamespace(info=replace(device.info, driver_id=driver_id), queue_lock=device.queue_lock)
        Recording(described, submission, None).run()
        assert limits == [expected, expected]


@pytest.mark.parametrize("tile", [(2, 1), (4, 1), (2, 4)])
def test_a_gated_weight_may_alternate_in_other_groups_than_the_kernels_lanes(device, monkeypatch, tile):
    """On Intel a gated weight alternates 16 rows, and some of its kernels have 8 lanes."""
    for module in (packing, matmul):
        monkeypatch.setattr(module, "row_lanes", lambda device: 2 * device.lanes)
    op = replace(OPS["matmul"], variants=lambda *arguments, **attrs: [{"tile": tile}])
    cases = [case for case in op.cases if case.label in ("q4_1 1x200x256 norm silu", "q4_1 5x37x512 gelu")]
    assert len(cases) == 2
    for case in cases:
        inputs = case.make(np.random.default_rng(7))
        expected = reference("matmul", *inputs, **case.attrs)
        (result,) = check._run(device, op, case, inputs, expected, {"tile": tile}, set())
        assert result.passed, result
