#!/usr/bin/env python3
"""Extracts the parts of the Vulkan API that the host uses from vulkan_core.h (Debian: libvulkan-dev):
vkbackend/device/vulkan_cdef.h, types and functions for cffi, and vulkan_constants.py, values of enums. Run it after
adding a name below; a test compares the files with the installed header.

    python3 scripts/generate_vulkan.py [--header /usr/include/vulkan/vulkan_core.h] [--output vkbackend/device]
"""

import argparse
import re
from pathlib import Path

STRUCTS = """
    VkApplicationInfo VkInstanceCreateInfo VkExtent3D VkQueueFamilyProperties VkPhysicalDeviceLimits
    VkPhysicalDeviceSparseProperties VkPhysicalDeviceProperties VkPhysicalDeviceProperties2 VkPhysicalDeviceFeatures
    VkPhysicalDeviceFeatures2 VkMemoryType VkMemoryHeap VkPhysicalDeviceMemoryProperties
    VkPhysicalDeviceMemoryProperties2 VkPhysicalDeviceMemoryBudgetPropertiesEXT VkConformanceVersion
    VkPhysicalDeviceDriverProperties VkPhysicalDeviceIDProperties VkPhysicalDeviceSubgroupProperties
    VkPhysicalDeviceSubgroupSizeControlProperties VkPhysicalDeviceSubgroupSizeControlFeatures
    VkPhysicalDevice16BitStorageFeatures VkPhysicalDevice8BitStorageFeatures
    VkPhysicalDeviceShaderFloat16Int8Features VkPhysicalDeviceShaderIntegerDotProductFeatures
    VkPhysicalDeviceVulkanMemoryModelFeatures VkDeviceQueueCreateInfo VkDeviceCreateInfo VkExtensionProperties
""".split()
FUNCTIONS = """
    vkEnumerateInstanceVersion vkCreateInstance vkDestroyInstance vkEnumeratePhysicalDevices
    vkGetPhysicalDeviceProperties2 vkGetPhysicalDeviceProperties vkGetPhysicalDeviceFeatures2
    vkGetPhysicalDeviceMemoryProperties2 vkGetPhysicalDeviceQueueFamilyProperties
    vkEnumerateDeviceExtensionProperties vkCreateDevice vkDestroyDevice vkGetInstanceProcAddr
""".split()
CONSTANTS = """
    VK_QUEUE_COMPUTE_BIT VK_MEMORY_HEAP_DEVICE_LOCAL_BIT VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
    VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT VK_MEMORY_PROPERTY_HOST_COHERENT_BIT VK_MEMORY_PROPERTY_HOST_CACHED_BIT
    VK_BUFFER_USAGE_TRANSFER_SRC_BIT VK_BUFFER_USAGE_TRANSFER_DST_BIT VK_BUFFER_USAGE_UNIFORM_TEXEL_BUFFER_BIT
    VK_BUFFER_USAGE_STORAGE_BUFFER_BIT VK_SHADER_STAGE_COMPUTE_BIT VK_SUBGROUP_FEATURE_BASIC_BIT
    VK_SUBGROUP_FEATURE_VOTE_BIT VK_SUBGROUP_FEATURE_ARITHMETIC_BIT VK_SUBGROUP_FEATURE_BALLOT_BIT
    VK_SUBGROUP_FEATURE_SHUFFLE_BIT VK_SUBGROUP_FEATURE_SHUFFLE_RELATIVE_BIT VK_SUBGROUP_FEATURE_CLUSTERED_BIT
    VK_SUBGROUP_FEATURE_QUAD_BIT VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT VK_PIPELINE_STAGE_TRANSFER_BIT
    VK_PIPELINE_STAGE_HOST_BIT VK_ACCESS_SHADER_READ_BIT VK_ACCESS_SHADER_WRITE_BIT VK_ACCESS_TRANSFER_READ_BIT
    VK_ACCESS_TRANSFER_WRITE_BIT VK_ACCESS_HOST_READ_BIT VK_ACCESS_HOST_WRITE_BIT
    VK_DRIVER_ID_INTEL_PROPRIETARY_WINDOWS VK_DRIVER_ID_INTEL_OPEN_SOURCE_MESA VK_DRIVER_ID_MESA_LLVMPIPE
""".split()
RESULTS = """
    VK_SUCCESS VK_TIMEOUT VK_ERROR_OUT_OF_HOST_MEMORY VK_ERROR_OUT_OF_DEVICE_MEMORY VK_ERROR_INITIALIZATION_FAILED
    VK_ERROR_DEVICE_LOST VK_ERROR_LAYER_NOT_PRESENT VK_ERROR_EXTENSION_NOT_PRESENT VK_ERROR_FEATURE_NOT_PRESENT
    VK_ERROR_INCOMPATIBLE_DRIVER
""".split()

# VK_KHR_cooperative_matrix, which headers older than 1.3.255 lack.
NEWER_TYPES = """
typedef struct VkPhysicalDeviceCooperativeMatrixFeaturesKHR {
    VkStructureType sType;
    void* pNext;
    VkBool32 cooperativeMatrix;
    VkBool32 cooperativeMatrixRobustBufferAccess;
} VkPhysicalDeviceCooperativeMatrixFeaturesKHR;
typedef struct VkCooperativeMatrixPropertiesKHR {
    VkStructureType sType;
    void* pNext;
    uint32_t MSize;
    uint32_t NSize;
    uint32_t KSize;
    int AType;
    int BType;
    int CType;
    int ResultType;
    VkBool32 saturatingAccumulation;
    int scope;
} VkCooperativeMatrixPropertiesKHR;
typedef VkResult (*PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)(
    VkPhysicalDevice physicalDevice,
    uint32_t* pPropertyCount,
    VkCooperativeMatrixPropertiesKHR* pProperties);
"""
NEWER_STRUCTURE_TYPES = {
    "VkPhysicalDeviceCooperativeMatrixFeaturesKHR": 1000506000,
    "VkCooperativeMatrixPropertiesKHR": 1000506001,
}
NEWER_CONSTANTS = {"VK_COMPONENT_TYPE_FLOAT16_KHR": 0, "VK_COMPONENT_TYPE_FLOAT32_KHR": 1, "VK_SCOPE_SUBGROUP_KHR": 3}


def values_of(header: str) -> dict[str, int]:
    """Values of enumerators and numeric #defines; an enumerator may be an alias of another."""
    found: dict[str, int] = {}
    for name, value in re.findall(
        r"^\s*(?:static const \w+ |#define )?(VK_\w+)\s*=?\s+\(?(-?(?:0x[0-9A-Fa-f]+|\d+)U?(?:LL)?|VK_\w+)\)?[,;]?\s*$",
        header.replace(" = ", " "),
        re.MULTILINE,
    ):
        found[name] = found.get(value, 0) if value.startswith("VK_") else int(value.rstrip("UL"), 0)
    return found


def definition(header: str, name: str, values: dict[str, int]) -> str:
    """A struct, with array sizes as numbers."""
    found = re.search(rf"typedef struct {name} \{{(.*?)\}} {name};", header, re.DOTALL)
    assert found, f"{name} is not in the header"
    body = re.sub(r"\[(VK_\w+)\]", lambda size: f"[{values[size[1]]}]", found[1])
    fields = [" ".join(line.split()) for line in body.strip().splitlines()]
    return f"typedef struct {name} {{\n" + "".join(f"    {field}\n" for field in fields) + f"}} {name};\n"


def prototype(header: str, name: str) -> str:
    """A function's declaration."""
    found = re.search(rf"VKAPI_ATTR (\w+) VKAPI_CALL {name}\((.*?)\);", header, re.DOTALL)
    assert found, f"{name} is not in the header"
    result, arguments = found.groups()
    lines = ",".join(f"\n    {' '.join(argument.split())}" for argument in arguments.split(","))
    return f"{result} {name}({lines});\n"


def simple_types(header: str, text: str) -> str:
    """Typedefs of the handles, enums and flags used in `text`."""
    used = (
        {word for word in re.findall(r"\bVk\w+|\bPFN_\w+", text)} - set(STRUCTS) - set(re.findall(r"\} (\w+);", text))
    )
    lines = [
        "typedef uint32_t VkBool32;",
        "typedef uint32_t VkFlags;",
        "typedef uint64_t VkDeviceSize;",
        "typedef void (*PFN_vkVoidFunction)(void);",
    ]
    for name in sorted(used - {"VkBool32", "VkFlags", "VkDeviceSize", "PFN_vkVoidFunction"}):
        if re.search(rf"VK_DEFINE_HANDLE\({name}\)", header):
            lines.append(f"typedef struct {name}_T* {name};")
        elif re.search(rf"typedef VkFlags {name};", header):
            lines.append(f"typedef VkFlags {name};")
        elif re.search(rf"typedef enum {name} ", header):
            lines.append(f"typedef int {name};")
        elif re.search(rf"typedef struct {name} ", header):
            lines.append(f"typedef struct {name} {name};")
    return "\n".join(lines) + "\n"


def generated(header: str) -> dict[str, str]:
    """The generated files: name -> text."""
    values = values_of(header)
    types = "".join(definition(header, name, values) for name in STRUCTS) + NEWER_TYPES.lstrip()
    functions = "".join(prototype(header, name) for name in FUNCTIONS)
    made_by = "by scripts/generate_vulkan.py from vulkan_core.h"
    cdef = (
        f"/* Vulkan types and functions for cffi's ABI mode; made {made_by}. "
        f"*/\n{simple_types(header, types + functions)}{types}{functions}"
    )
    plain = {
        name.replace("_", "").lower(): value for name, value in values.items() if name.startswith("VK_STRUCTURE_TYPE_")
    }
    kinds = {
        name: plain["vkstructuretype" + name[2:].lower()]
        for name in STRUCTS
        if "sType" in definition(header, name, values)
    }
    lines = [f'"""Values of Vulkan enums; made {made_by}."""\n']
    lines += [f"{name} = 0x{values[name]:X}" for name in CONSTANTS] + [f"{name} = {values[name]}" for name in RESULTS]
    lines += [f"{name} = {value}" for name, value in NEWER_CONSTANTS.items()]
    lines.append(
        "\n# Names of VkResult values.\nRESULTS = {" + "".join(f'\n    {name}: "{name}",' for name in RESULTS) + "\n}"
    )
    lines.append(
        "\n# sType of each struct.\nSTRUCTURE_TYPES = {"
        + "".join(f'\n    "{name}": {value},' for name, value in (kinds | NEWER_STRUCTURE_TYPES).items())
        + "\n}"
    )
    return {"vulkan_cdef.h": cdef, "vulkan_constants.py": "\n".join(lines) + "\n"}


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description="Generate vulkan_cdef.h and vulkan_constants.py from vulkan_core.h.")
    parser.add_argument("--header", type=Path, default=Path("/usr/include/vulkan/vulkan_core.h"))
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parents[1] / "vkbackend" / "device")
    arguments = parser.parse_args()
    for name, text in generated(arguments.header.read_text()).items():
        (arguments.output / name).write_text(text)


if __name__ == "__main__":
    main()
