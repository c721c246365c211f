"""Which devices are found, what is said of them, which one is chosen and why."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from vulkan_drivers import LAVAPIPE, SWIFTSHADER, impossible, run_on

from vkbackend.device import selection
from vkbackend.device.choosing import choose
from vkbackend.device.context import Device
from vkbackend.device.device_info import FEATURES, DeviceInfo, DeviceLimits, DeviceType
from vkbackend.errors import NoDevice, OutOfMemory

LIST = (
    "import json\nfrom vkbackend.device.discover import list_devices\nprint(json.dumps([info.as_dict() for info in "
    "list_devices()]))"
)
SURVEY = """
import json
from vkbackend.device.selection import survey
found = survey()
print(json.dumps({
    "chosen": found.chosen and found.chosen.name, "uses": found.uses_device, "sentence": found.sentence,
    "problem": found.problem,
    "reasons": {found.devices[index].name: reason for index, reason in found.reasons.items()},
}))
"""


# Discovery


def test_devices_are_described(driver):
    """What every Vulkan 1.1 device must have (specification, "Required Limits"), and that it goes into JSON."""
    (info,) = run_on(driver, LIST)
    assert info["type"] == "cpu" and info["name"] and info["driver"] != "unknown"
    assert len(bytes.fromhex(info["uuid"])) == 16
    assert tuple(map(int, info["api"].split("."))) >= (1, 1, 0)
    assert 1 <= info["subgroup_min"] <= info["subgroup_size"] <= info["subgroup_max"] <= 128
    assert set(info["features"]) <= set(FEATURES) and "subgroup_basic" in info["features"]
    limits = info["limits"]
    assert limits["max_storage_buffer_range"] >= 1 << 27 and limits["max_push_constants_bytes"] >= 128
    assert limits["max_workgroup_invocations"] >= 128 and limits["max_shared_memory_bytes"] >= 16384
    for alignment in (limits["min_storage_buffer_offset_alignment"], limits["min_texel_buffer_offset_alignment"]):
        assert alignment & (alignment - 1) == 0 and 0 < alignment <= 256
    assert 0 < info["memory_free"] <= info["memory_total"]


def test_features_are_the_devices_own():
    """SwiftShader has no 16-bit storage and subgroups of 4; lavapipe has both 16-bit storage and wider subgroups."""
    (lavapipe,), (swiftshader,) = run_on(LAVAPIPE, LIST), run_on(SWIFTSHADER, LIST)
    assert "storage16" in lavapipe["features"] and "storage16" not in swiftshader["features"]
    assert lavapipe["subgroup_size"] != swiftshader["subgroup_size"] == 4
    assert lavapipe["limits"] != swiftshader["limits"]


def test_two_drivers_are_two_devices():
    files = ":".join(str(driver.require().manifest) for driver in (LAVAPIPE, SWIFTSHADER))
    both = run_on(None, LIST, environment={"VK_DRIVER_FILES": files, "VK_ICD_FILENAMES": files})
    alone = [run_on(driver, LIST)[0] for driver in (LAVAPIPE, SWIFTSHADER)]
    assert {info["uuid"]: info["name"] for info in both} == {info["uuid"]: info["name"] for info in alone}
    assert [info["index"] for info in both] == [0, 1]


def test_each_of_two_devices_can_be_opened_and_used():
    """Identified by UUID: the index is only the loader's order."""
    files = ":".join(str(driver.require().manifest) for driver in (LAVAPIPE, SWIFTSHADER))
    program = """
import json, numpy as np
from vkbackend.device.selection import open_device
from vkbackend.ops.run import run
x = np.arange(64, dtype=np.float32).reshape(2, 32)
devices = [open_device(0), open_device(1)]
sums = [run(device, "add", x, x).sum() for device in devices]
print(json.dumps({"names": [device.info.name for device in devices], "sums": list(map(float, sums))}))
"""
    found = run_on(None, program, environment={"VK_DRIVER_FILES": files, "VK_ICD_FILENAMES": files})
    assert len(set(found["names"])) == 2 and found["sums"] == [4032.0, 4032.0]


@pytest.mark.parametrize("visible", ["0", "1"])
def test_environment_chooses_among_two(visible):
    files = ":".join(str(driver.require().manifest) for driver in (LAVAPIPE, SWIFTSHADER))
    environment = {"VK_DRIVER_FILES": files, "VK_ICD_FILENAMES": files, "OLLAMA_VULKAN": "1"}
    names = [info["name"] for info in run_on(None, LIST, environment=environment)]
    found = run_on(None, SURVEY, environment=environment | {"GGML_VK_VISIBLE_DEVICES": visible})
    assert found["uses"] and found["chosen"] == names[int(visible)]
    assert "named in GGML_VK_VISIBLE_DEVICES" in found["reasons"][found["chosen"]]
    assert f"not in GGML_VK_VISIBLE_DEVICES={visible}" == found["reasons"][names[1 - int(visible)]]


@pytest.mark.parametrize(
    "environment, uses, said",
    [
        ({}, False, "OLLAMA_VULKAN is not set"),
        ({"OLLAMA_VULKAN": "0"}, False, "OLLAMA_VULKAN is not set"),
        ({"OLLAMA_VULKAN": "1"}, True, ", preferred ("),
        ({"OLLAMA_VULKAN": "true", "GGML_VK_VISIBLE_DEVICES": "0"}, True, ", preferred ("),
        (
            {"OLLAMA_VULKAN": "1", "GGML_VK_VISIBLE_DEVICES": "7"},
            False,
            "GGML_VK_VISIBLE_DEVICES='7' of 1 found; see `vkbackend devices`",
        ),
        (
            {"OLLAMA_VULKAN": "1", "GGML_VK_VISIBLE_DEVICES": "all"},
            False,
            "not a list of device indices such as 0,1; there are 1",
        ),
    ],
)
def test_environment_switches_vulkan_on(device, monkeypatch, environment, uses, said):
    for name in ("OLLAMA_VULKAN", "GGML_VK_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = selection.survey()
    assert found.uses_device == uses
    assert said in found.sentence


def test_no_driver_is_an_error_that_says_what_to_do(tmp_path):
    """A loader that finds nothing, a manifest that names a library that is not there, and one that is no JSON."""
    broken = tmp_path / "broken.json"
    broken.write_text(
        json.dumps(
            {"file_format_version": "1.0.0", "ICD": {"library_path": "/nothing/here.so", "api_version": "1.1.0"}}
        )
    )
    empty = tmp_path / "empty.json"
    empty.write_text("{}")
    program = """
import json
from vkbackend.device.choosing import choose
from vkbackend.device.discover import list_devices
from vkbackend.errors import NoDevice, OutOfMemory
try:
    choose(list_devices())
except NoDevice as error:
    print(json.dumps(str(error)))
"""
    for path in (tmp_path / "nothing.json", broken, empty):
        environment = {"VK_DRIVER_FILES": str(path), "VK_ICD_FILENAMES": str(path)}
        text = run_on(None, program, environment=environment)
        assert "no Vulkan d" in text and "vulkaninfo --summary" in text
        found = run_on(None, SURVEY, environment=environment | {"OLLAMA_VULKAN": "1"})
        assert (
            not found["uses"]
            and found["problem"]
            and found["sentence"].startswith("CPU, although OLLAMA_VULKAN is set")
        )


# Choice


def described(index, kind, memory=1 << 30, **changes) -> DeviceInfo:
    limits = DeviceLimits(1 << 27, 64, 1 << 27, 64, 128, 256, 64, (256, 256, 64), (65535,) * 3, 32768, 4096, 1.0)
    return replace(
        DeviceInfo(
            index,
            f"{kind.name} {index}",
            kind,
            0,
            "driver",
            "1",
            (1, 3, 0),
            f"{index:032x}",
            32,
            32,
            32,
            frozenset(),
            limits,
            memory,
            memory,
            0,
            64,
        ),
        **changes,
    )


ALL_KINDS = [
    described(index, kind)
    for index, kind in enumerate(
        (DeviceType.CPU, DeviceType.OTHER, DeviceType.INTEGRATED, DeviceType.VIRTUAL, DeviceType.DISCRETE)
    )
]


@pytest.mark.parametrize(
    "devices, visible, expected",
    [
        (ALL_KINDS, "", 4),
        (ALL_KINDS[:4], "", 3),
        (ALL_KINDS[:3], "", 2),
        (ALL_KINDS[:2], "", 1),
        (ALL_KINDS[:1], "", 0),
        (ALL_KINDS, "0", 0),
        (ALL_KINDS, "2,0", 2),
        (ALL_KINDS, " 1 , 0 ,", 1),
        (ALL_KINDS, "0,99", 0),
        ([described(0, DeviceType.DISCRETE, 4 << 30), described(1, DeviceType.DISCRETE, 8 << 30)], "", 1),
        ([described(0, DeviceType.DISCRETE), described(1, DeviceType.DISCRETE)], "", 0),
        ([described(0, DeviceType.DISCRETE, 1 << 30), described(1, DeviceType.INTEGRATED, 64 << 30)], "", 0),
    ],
)
def test_choice_by_type_then_memory(devices, visible, expected):
    found = choose(devices, visible)
    assert found.device.index == expected
    assert set(found.reasons) == {device.index for device in devices}
    assert [index for index, reason in found.reasons.items() if reason.startswith("preferred")] == [expected]


def test_choice_says_why_not():
    reasons = choose(ALL_KINDS).reasons
    assert "CPU device, and a GPU is there" in reasons[0]
    assert reasons[2] == "discrete device 4 comes first"


@pytest.mark.parametrize(
    "devices, visible, said",
    [
        ([], "", "no Vulkan device was found"),
        (ALL_KINDS, "5", "of 5 found"),
        (ALL_KINDS, "-1", "of 5 found"),
        (ALL_KINDS, "0;1", "not a list of device indices"),
    ],
)
def test_no_choice_says_why(devices, visible, said):
    with pytest.raises(NoDevice, match=said):
        choose(devices, visible)


NO_MEMORY = described(5, DeviceType.DISCRETE, 0, problem="it has no memory")


@pytest.mark.parametrize("visible", ["", "0,5"])
def test_a_device_without_memory_is_not_chosen(visible):
    found = choose([ALL_KINDS[0], NO_MEMORY], visible)
    assert found.usable == ALL_KINDS[:1] and found.reasons[5] == "cannot be used: it has no memory"


def test_devices_without_memory_are_no_device():
    with pytest.raises(NoDevice, match="DISCRETE 5 cannot be used: it has no memory.*vkbackend devices"):
        choose([NO_MEMORY])
    assert selection.survey([NO_MEMORY]).reasons == {5: "cannot be used: it has no memory"}


def test_a_device_that_cannot_make_a_buffer_is_not_chosen_again(device, monkeypatch):
    def refuse(self, num_bytes, kind):
        raise OutOfMemory("vkAllocateMemory gave ErrorOutOfDeviceMemory")

    monkeypatch.setattr(selection, "_problems", {})
    with monkeypatch.context() as patched:
        patched.setattr(Device, "memory", refuse)
        with pytest.raises(NoDevice, match="cannot make a buffer"):
            selection.open_device(device.info.index)
    assert selection.survey([device.info]).chosen is None
    assert "it cannot make a buffer" in selection.survey([device.info]).reasons[device.info.index]


def test_flavors_need_what_they_use():
    plain = described(0, DeviceType.DISCRETE)
    able = replace(plain, features=frozenset(FEATURES))
    assert plain.flavors == ("base",)
    assert able.flavors[0] == "subgroup" and replace(able, type=DeviceType.CPU).flavors[0] == "texel"
    assert replace(able, features=able.features - {"subgroup_size_control"}).flavors == ("base",)
    assert replace(able, subgroup_min=8, subgroup_max=32).subgroup_sizes == (8, 16, 32)


def test_device_that_is_gone(device):
    with pytest.raises(NoDevice, match="no longer there; see `vkbackend devices`"):
        Device(replace(device.info, uuid="0" * 32))


@pytest.mark.parametrize("where", ["device", "discrete_device"])
def test_counters_are_zero_and_shared(request, where):
    """Larger ones are made where more are asked for; what was recorded with the smaller ones keeps those."""
    opened = request.getfixturevalue(where)
    few = opened.counters(3)
    assert opened.counters(few.num_bytes // 4) is few
    many = opened.counters(few.num_bytes // 4 + 1)
    assert many.num_bytes > few.num_bytes and opened.counters(1) is many
    for buffer in (few, many):
        assert not opened.download(buffer, np.uint32, (buffer.num_bytes // 4,)).any()


@pytest.mark.parametrize("where", ["device", "discrete_device"])
def test_memory_for_weights_has_huge_pages(request, where):
    """On a CPU device, also one that is treated as a GPU. After a slow huge page, up to 64 allocations get none."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        impossible("transparent huge pages are switched off")
    device = request.getfixturevalue(where)
    before = huge_page_bytes()
    memories = []
    while huge_page_bytes() == before and len(memories) <= 64:
        memories.append(device.memory(6 << 20, "weights"))
    assert huge_page_bytes() >= before + (2 << 20)


def huge_page_bytes() -> int:
    """Bytes of huge pages in this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("AnonHugePages:"))
