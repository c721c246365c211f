"""What VK_KHR_cooperative_matrix offers on a device: sizes of the small matrices whose product a subgroup computes
at once.
"""

from . import vulkan
from .vulkan_constants import STRUCTURE_TYPES
from .vulkan_constants import VK_COMPONENT_TYPE_FLOAT16_KHR as FLOAT16
from .vulkan_constants import VK_COMPONENT_TYPE_FLOAT32_KHR as FLOAT32
from .vulkan_constants import VK_SCOPE_SUBGROUP_KHR as SUBGROUP


def sizes(instance, physical) -> tuple[str, ...]:
    """ "MxNxK" of C (M, N) += A (M, K) B (K, N), with A and B in float16 and C in float32, in the driver's order.
     The device must have the
    extension. Source: VkCooperativeMatrixPropertiesKHR.
    """
    ffi, lib = vulkan.load()
    name = b"vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"
    address = lib.vkGetInstanceProcAddr(instance, name)
    if not address:
        return ()
    listed = ffi.cast(f"PFN_{name.decode()}", address)
    count = ffi.new("uint32_t*")
    vulkan.check(listed(physical, count, ffi.NULL), name.decode())
    found = ffi.new(
        "VkCooperativeMatrixPropertiesKHR[]",
        [{"sType": STRUCTURE_TYPES["VkCooperativeMatrixPropertiesKHR"]}] * count[0],
    )
    vulkan.check(listed(physical, count, found), name.decode())
    return tuple(
        f"{each.MSize}x{each.NSize}x{each.KSize}"
        for each in found[0 : count[0]]
        if each.scope == SUBGROUP
        and (each.AType, each.BType) == (FLOAT16, FLOAT16)
        and (each.CType, each.ResultType) == (FLOAT32, FLOAT32)
    )
