"""The generated Vulkan types and constants against the header that is installed."""

import importlib.util
from pathlib import Path

from places import ROOT
from vulkan_drivers import missing

from vkbackend.device import vulkan, vulkan_constants

HEADER = Path("/usr/include/vulkan/vulkan_core.h")


def generator():
    spec = importlib.util.spec_from_file_location("generate_vulkan", ROOT / "scripts" / "generate_vulkan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_generator_makes_of_the_header():
    if not HEADER.exists():
        missing("vulkan_core.h is not installed (Debian: apt-get install libvulkan-dev)")
    for name, text in generator().generated(HEADER.read_text()).items():
        assert (ROOT / "vkbackend" / "device" / name).read_text() == text, f"{name}: run scripts/generate_vulkan.py"


def test_lines_are_readable():
    for name in ("vulkan_cdef.h", "vulkan_constants.py"):
        assert max(map(len, (ROOT / "vkbackend" / "device" / name).read_text().splitlines())) <= 120


def test_a_struct_gets_its_type():
    for name, value in vulkan_constants.STRUCTURE_TYPES.items():
        assert vulkan.struct(name).sType == value


def test_aliases_of_enumerators_have_their_values():
    header = (
        "typedef enum VkA {\n    VK_A_ONE = 1,\n    VK_A_BIT = 0x00000800,\n    VK_A_SAME = VK_A_BIT,\n    "
        "VK_A_LESS = -9,\n} VkA;\n#define VK_MAX_A 256U\n"
    )
    assert generator().values_of(header) == {
        "VK_A_ONE": 1,
        "VK_A_BIT": 0x800,
        "VK_A_SAME": 0x800,
        "VK_A_LESS": -9,
        "VK_MAX_A": 256,
    }
