"""libvulkan.so.1 through cffi (ABI mode): the few calls that discovery and opening a device need.

Works where kp is not installed. In: nothing. Out: `load()` -> (ffi, lib), `new_instance()`, `chain(...)` for pNext chains.
"""

from functools import lru_cache
from pathlib import Path

import cffi

from ..errors import DeviceError, NoDevice

API_1_1 = (1 << 22) | (1 << 12)
API_1_2 = (1 << 22) | (2 << 12)
API_1_3 = (1 << 22) | (3 << 12)

# VkStructureType values (Vulkan specification, "VkStructureType").
STRUCTURE_TYPES = {
    "VkApplicationInfo": 0, "VkInstanceCreateInfo": 1, "VkDeviceQueueCreateInfo": 2, "VkDeviceCreateInfo": 3,
    "VkPhysicalDeviceFeatures2": 1000059000, "VkPhysicalDeviceProperties2": 1000059001, "VkPhysicalDeviceMemoryProperties2": 1000059006,
    "VkPhysicalDeviceIDProperties": 1000071004, "VkPhysicalDevice16BitStorageFeatures": 1000083000,
    "VkPhysicalDeviceShaderFloat16Int8Features": 1000082000, "VkPhysicalDeviceSubgroupProperties": 1000094000,
    "VkPhysicalDevice8BitStorageFeatures": 1000177000, "VkPhysicalDeviceDriverProperties": 1000196000,
    "VkPhysicalDeviceSubgroupSizeControlProperties": 1000225000, "VkPhysicalDeviceSubgroupSizeControlFeatures": 1000225002,
    "VkPhysicalDeviceMemoryBudgetPropertiesEXT": 1000237000, "VkPhysicalDeviceShaderIntegerDotProductFeatures": 1000280000,
    "VkPhysicalDeviceVulkanMemoryModelFeatures": 1000211000, "VkPhysicalDeviceCooperativeMatrixFeaturesKHR": 1000506000,
    "VkCooperativeMatrixPropertiesKHR": 1000506001,
}
RESULTS = {-1: "VK_ERROR_OUT_OF_HOST_MEMORY", -2: "VK_ERROR_OUT_OF_DEVICE_MEMORY", -3: "VK_ERROR_INITIALIZATION_FAILED",
           -4: "VK_ERROR_DEVICE_LOST", -6: "VK_ERROR_LAYER_NOT_PRESENT", -7: "VK_ERROR_EXTENSION_NOT_PRESENT",
           -8: "VK_ERROR_FEATURE_NOT_PRESENT", -9: "VK_ERROR_INCOMPATIBLE_DRIVER", 2: "VK_TIMEOUT"}


@lru_cache(maxsize=1)
def load():
    """-> (ffi, lib). Raises NoDevice where the Vulkan loader is missing."""
    ffi = cffi.FFI()
    ffi.cdef((Path(__file__).parent / "vulkan_cdef.h").read_text())
    try:
        return ffi, ffi.dlopen("libvulkan.so.1")
    except OSError as error:
        raise NoDevice(f"the Vulkan loader libvulkan.so.1 cannot be opened ({error}); install it (Debian: apt-get install libvulkan1 "
                       "and your GPU's driver, such as mesa-vulkan-drivers)") from error


def check(result: int, call: str) -> None:
    if result != 0:
        raise DeviceError(f"{call} gave {RESULTS.get(result, result)}")


def struct(name: str, next_=None, **fields):
    """A Vulkan struct with its sType set, chained before `next_`."""
    ffi, _ = load()
    made = ffi.new(name + "*", {"sType": STRUCTURE_TYPES[name], **fields})
    if next_ is not None:
        made.pNext = next_
    return made


def new_instance():
    """-> VkInstance of API 1.3 (or what the loader has). The caller destroys it. Raises NoDevice where no driver is installed."""
    ffi, lib = load()
    version = ffi.new("uint32_t*")
    check(lib.vkEnumerateInstanceVersion(version), "vkEnumerateInstanceVersion")
    app = struct("VkApplicationInfo", apiVersion=max(API_1_1, min(version[0], API_1_3)))
    instance = ffi.new("VkInstance*")
    result = lib.vkCreateInstance(struct("VkInstanceCreateInfo", pApplicationInfo=app), ffi.NULL, instance)
    if result == -9:
        raise NoDevice("no Vulkan driver is installed (VK_ERROR_INCOMPATIBLE_DRIVER); install your GPU's driver "
                       "(Debian: apt-get install mesa-vulkan-drivers) and look at `vulkaninfo --summary`")
    check(result, "vkCreateInstance")
    return instance[0]


def physical_devices(instance) -> list:
    ffi, lib = load()
    count = ffi.new("uint32_t*")
    check(lib.vkEnumeratePhysicalDevices(instance, count, ffi.NULL), "vkEnumeratePhysicalDevices")
    devices = ffi.new("VkPhysicalDevice[]", count[0])
    check(lib.vkEnumeratePhysicalDevices(instance, count, devices), "vkEnumeratePhysicalDevices")
    return list(devices[0:count[0]])


def device_extensions(physical) -> set[str]:
    ffi, lib = load()
    count = ffi.new("uint32_t*")
    check(lib.vkEnumerateDeviceExtensionProperties(physical, ffi.NULL, count, ffi.NULL), "vkEnumerateDeviceExtensionProperties")
    found = ffi.new("VkExtensionProperties[]", count[0])
    check(lib.vkEnumerateDeviceExtensionProperties(physical, ffi.NULL, count, found), "vkEnumerateDeviceExtensionProperties")
    return {ffi.string(each.extensionName).decode() for each in found[0:count[0]]}


def address(handle) -> int:
    ffi, _ = load()
    return int(ffi.cast("uintptr_t", handle))
