"""Sizes of the cooperative matrices that a device supports (VK_KHR_cooperative_matrix): small matrices whose product a
subgroup computes at once.
"""

from . import vulkan
from .vulkan import CData
from .vulkan_constants import STRUCTURE_TYPES
from .vulkan_constants import VK_COMPONENT_TYPE_FLOAT16_KHR as FLOAT16
from .vulkan_constants import VK_COMPONENT_TYPE_FLOAT32_KHR as FLOAT32
from .vulkan_constants import VK_SCOPE_SUBGROUP_KHR as SUBGROUP

CALL = "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"


def sizes(instance: CData, physical: CData) -> tuple[str, ...]:
    """ "MxNxK" of C (M, N) += A (M, K) B (K, N), with A and B in float16 and C in float32, in the driver's order.

    The device must support the extension. Source: VkCooperativeMatrixPropertiesKHR.
    """
    ffi, lib = vulkan.load()
    address = lib.vkGetInstanceProcAddr(instance, CALL.encode())
    if not address:
        return ()
    list_properties: CData = ffi.cast(f"PFN_{CALL}", address)
    count = vulkan.new("uint32_t*")
    vulkan.check(list_properties(physical, count, ffi.NULL), CALL)
    found = vulkan.new(
        "VkCooperativeMatrixPropertiesKHR[]",
        [{"sType": STRUCTURE_TYPES["VkCooperativeMatrixPropertiesKHR"]}] * count[0],
    )
    vulkan.check(list_properties(physical, count, found), CALL)
    return tuple(
        f"{each.MSize}x{each.NSize}x{each.KSize}"
        for each in found[0 : count[0]]
        if each.scope == SUBGROUP
        and (each.AType, each.BType) == (FLOAT16, FLOAT16)
        and (each.CType, each.ResultType) == (FLOAT32, FLOAT32)
    )
