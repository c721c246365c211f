"""Lists the Vulkan devices and what they can do: `list_devices() -> list[DeviceInfo]`, in the driver's order. Opens
nothing.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from . import cooperative_matrix, vulkan
from . import vulkan_constants as constants
from .device_info import FEATURES, DeviceInfo, DeviceLimits, DeviceType
from .host_memory import available_host_memory
from .vulkan import CData

SUBGROUP_BITS = {
    "subgroup_basic": constants.VK_SUBGROUP_FEATURE_BASIC_BIT,
    "subgroup_vote": constants.VK_SUBGROUP_FEATURE_VOTE_BIT,
    "subgroup_arithmetic": constants.VK_SUBGROUP_FEATURE_ARITHMETIC_BIT,
    "subgroup_ballot": constants.VK_SUBGROUP_FEATURE_BALLOT_BIT,
    "subgroup_shuffle": constants.VK_SUBGROUP_FEATURE_SHUFFLE_BIT,
    "subgroup_shuffle_relative": constants.VK_SUBGROUP_FEATURE_SHUFFLE_RELATIVE_BIT,
    "subgroup_clustered": constants.VK_SUBGROUP_FEATURE_CLUSTERED_BIT,
    "subgroup_quad": constants.VK_SUBGROUP_FEATURE_QUAD_BIT,
}

NEVER_CORE = 1 << 10  # a minor version of Vulkan that no device has
STORAGE_16_BIT = "VkPhysicalDevice16BitStorageFeatures"
STORAGE_8_BIT = "VkPhysicalDevice8BitStorageFeatures"
FLOAT16_INT8 = "VkPhysicalDeviceShaderFloat16Int8Features"
SUBGROUP_SIZE_CONTROL = "VkPhysicalDeviceSubgroupSizeControlFeatures"
INTEGER_DOT_PRODUCT = "VkPhysicalDeviceShaderIntegerDotProductFeatures"
MEMORY_MODEL = "VkPhysicalDeviceVulkanMemoryModelFeatures"
COOPERATIVE_MATRIX = "VkPhysicalDeviceCooperativeMatrixFeaturesKHR"
# The structs through which optional features are queried and enabled: (struct, the minor version of Vulkan that
# contains it, the extension that contains it in earlier versions).
FEATURE_STRUCTS = (
    (STORAGE_8_BIT, 2, "VK_KHR_8bit_storage"),
    (FLOAT16_INT8, 2, "VK_KHR_shader_float16_int8"),
    (SUBGROUP_SIZE_CONTROL, 3, "VK_EXT_subgroup_size_control"),
    (INTEGER_DOT_PRODUCT, 3, "VK_KHR_shader_integer_dot_product"),
    (MEMORY_MODEL, 2, "VK_KHR_vulkan_memory_model"),
    (COOPERATIVE_MATRIX, NEVER_CORE, "VK_KHR_cooperative_matrix"),
)
# feature of FEATURES -> (struct, member)
FEATURE_MEMBERS = {
    "storage16": (STORAGE_16_BIT, "storageBuffer16BitAccess"),
    "storage8": (STORAGE_8_BIT, "storageBuffer8BitAccess"),
    "uniform_storage16": (STORAGE_16_BIT, "uniformAndStorageBuffer16BitAccess"),
    "push_constant16": (STORAGE_16_BIT, "storagePushConstant16"),
    "uniform_storage8": (STORAGE_8_BIT, "uniformAndStorageBuffer8BitAccess"),
    "push_constant8": (STORAGE_8_BIT, "storagePushConstant8"),
    "memory_model_device_scope": (MEMORY_MODEL, "vulkanMemoryModelDeviceScope"),
    "float16": (FLOAT16_INT8, "shaderFloat16"),
    "int8": (FLOAT16_INT8, "shaderInt8"),
    "integer_dot_product": (INTEGER_DOT_PRODUCT, "shaderIntegerDotProduct"),
    "memory_model": (MEMORY_MODEL, "vulkanMemoryModel"),
    "cooperative_matrix": (COOPERATIVE_MATRIX, "cooperativeMatrix"),
}
HOST_COHERENT = constants.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | constants.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT
MEMORY_BUDGET = "VK_EXT_memory_budget"


def list_devices() -> list[DeviceInfo]:
    """All devices that can compute. Raises NoDevice if there is no loader or no driver."""
    ffi, lib = vulkan.load()
    instance = vulkan.new_instance()
    try:
        found = [
            describe(instance, index, physical) for index, physical in enumerate(vulkan.physical_devices(instance))
        ]
        return [info for info in found if info is not None]
    finally:
        lib.vkDestroyInstance(instance, ffi.NULL)


def describe(instance: CData, index: int, physical: CData) -> DeviceInfo | None:
    """A physical device; None if it has no compute queue or supports only Vulkan 1.0."""
    _, lib = vulkan.load()
    basic = vulkan.new("VkPhysicalDeviceProperties*")
    lib.vkGetPhysicalDeviceProperties(physical, basic)
    api = basic.apiVersion
    if api < vulkan.API_1_1:
        return None
    family = _compute_family(physical)
    if family is None:
        return None
    extensions = vulkan.device_extensions(physical)

    driver = vulkan.struct("VkPhysicalDeviceDriverProperties")
    size_control = vulkan.struct("VkPhysicalDeviceSubgroupSizeControlProperties")
    subgroup = vulkan.struct("VkPhysicalDeviceSubgroupProperties")
    identity = vulkan.struct("VkPhysicalDeviceIDProperties", next_=subgroup)
    last = subgroup
    if _has(api, 2, "VK_KHR_driver_properties", extensions):
        last.pNext = driver
        last = driver
    if _has(api, 3, "VK_EXT_subgroup_size_control", extensions):
        last.pNext = size_control
    lib.vkGetPhysicalDeviceProperties2(physical, vulkan.struct("VkPhysicalDeviceProperties2", next_=identity))

    kind = DeviceType(basic.deviceType) if basic.deviceType in iter(DeviceType) else DeviceType.OTHER
    features = _features(physical, api, extensions, subgroup, size_control)
    if "cooperative_matrix" in features:
        features |= {f"cooperative_matrix_{size}" for size in cooperative_matrix.sizes(instance, physical)}
    memory = Memory.of(physical, kind, extensions)
    size = subgroup.subgroupSize
    return DeviceInfo(
        index=index,
        name=vulkan.text(basic.deviceName),
        type=kind,
        vendor_id=basic.vendorID,
        driver=f"{vulkan.text(driver.driverName)} {vulkan.text(driver.driverInfo)}".strip() or "unknown",
        driver_version=f"{basic.driverVersion:#x}",
        api=(api >> 22, api >> 12 & 0x3FF, api & 0xFFF),
        uuid=bytes(identity.deviceUUID).hex(),
        subgroup_size=size,
        subgroup_min=size_control.minSubgroupSize or size,
        subgroup_max=size_control.maxSubgroupSize or size,
        features=features,
        limits=_limits(basic.limits, size_control),
        memory_total=memory.total,
        memory_free=memory.free,
        compute_family=family[0],
        timestamp_bits=family[1],
        extensions=frozenset(extensions),
        problem=memory.problem,
        driver_id=driver.driverID,
    )


def _limits(limits: CData, size_control: CData) -> DeviceLimits:
    return DeviceLimits(
        max_storage_buffer_range=limits.maxStorageBufferRange,
        min_storage_buffer_offset_alignment=limits.minStorageBufferOffsetAlignment,
        max_texel_buffer_elements=limits.maxTexelBufferElements,
        min_texel_buffer_offset_alignment=limits.minTexelBufferOffsetAlignment,
        max_push_constants_bytes=limits.maxPushConstantsSize,
        max_workgroup_invocations=limits.maxComputeWorkGroupInvocations,
        max_workgroup_subgroups=size_control.maxComputeWorkgroupSubgroups or 1,
        max_workgroup_size=tuple(limits.maxComputeWorkGroupSize),
        max_workgroup_count=tuple(limits.maxComputeWorkGroupCount),
        max_shared_memory_bytes=limits.maxComputeSharedMemorySize,
        max_allocations=limits.maxMemoryAllocationCount,
        timestamp_period_ns=limits.timestampPeriod,
        max_storage_buffers=min(
            limits.maxPerStageDescriptorStorageBuffers,
            limits.maxDescriptorSetStorageBuffers,
            limits.maxPerStageResources,
        ),
    )


def _has(api: int, minor: int, extension: str, extensions: AbstractSet[str]) -> bool:
    return (api >> 12 & 0x3FF) >= minor or api >> 22 > 1 or extension in extensions


def feature_chain(physical: CData, api: int, extensions: AbstractSet[str]) -> tuple[CData, dict[str, CData]]:
    """-> (VkPhysicalDeviceFeatures2 filled in by the driver, its chained structs by name). Contains only structs that
    the device knows.
    """
    _, lib = vulkan.load()
    names = [STORAGE_16_BIT]
    names += [name for name, minor, extension in FEATURE_STRUCTS if _has(api, minor, extension, extensions)]
    structs = {name: vulkan.struct(name) for name in names}
    features = vulkan.struct("VkPhysicalDeviceFeatures2")
    previous = features
    for each in structs.values():
        previous.pNext = each
        previous = each
    lib.vkGetPhysicalDeviceFeatures2(physical, features)
    return features, structs


def _features(
    physical: CData, api: int, extensions: AbstractSet[str], subgroup: CData, size_control: CData
) -> frozenset[str]:
    features, structs = feature_chain(physical, api, extensions)
    core = features.features
    in_compute = subgroup.supportedStages & constants.VK_SHADER_STAGE_COMPUTE_BIT
    operations = subgroup.supportedOperations if in_compute else 0
    present = {name: bool(operations & bit) for name, bit in SUBGROUP_BITS.items()}
    present |= {
        "float64": bool(core.shaderFloat64),
        "int64": bool(core.shaderInt64),
        "int16": bool(core.shaderInt16),
    }
    for name, (struct, member) in FEATURE_MEMBERS.items():
        present[name] = struct in structs and bool(getattr(structs[struct], member))
    control = structs.get(SUBGROUP_SIZE_CONTROL)
    present["subgroup_size_control"] = control is not None and bool(
        control.subgroupSizeControl
        and control.computeFullSubgroups
        and size_control.requiredSubgroupSizeStages & constants.VK_SHADER_STAGE_COMPUTE_BIT
    )
    return frozenset(name for name in FEATURES if present[name])


def _compute_family(physical: CData) -> tuple[int, int] | None:
    """-> (index, timestamp bits) of the first queue family that can compute."""
    ffi, lib = vulkan.load()
    count = vulkan.new("uint32_t*")
    lib.vkGetPhysicalDeviceQueueFamilyProperties(physical, count, ffi.NULL)
    families = vulkan.new("VkQueueFamilyProperties[]", count[0])
    lib.vkGetPhysicalDeviceQueueFamilyProperties(physical, count, families)
    for index in range(count[0]):
        if families[index].queueFlags & constants.VK_QUEUE_COMPUTE_BIT:
            return index, families[index].timestampValidBits
    return None


@dataclass(frozen=True)
class Memory:
    """A device's own heaps: bytes in total, and bytes that can be allocated now. problem: why no buffer can be made;
    empty if one can.

    free is the driver's budget if it reports one, else the total. On devices that share the host's memory it is at most
    what the host has available.
    """

    total: int
    free: int
    problem: str

    @classmethod
    def of(cls, physical: CData, kind: DeviceType, extensions: AbstractSet[str]) -> "Memory":
        """Ask the driver."""
        _, lib = vulkan.load()
        has_budget = MEMORY_BUDGET in extensions
        budget = vulkan.struct("VkPhysicalDeviceMemoryBudgetPropertiesEXT")
        asked = vulkan.struct("VkPhysicalDeviceMemoryProperties2", next_=budget if has_budget else None)
        lib.vkGetPhysicalDeviceMemoryProperties2(physical, asked)
        properties = asked.memoryProperties
        heaps = properties.memoryHeaps[0 : properties.memoryHeapCount]
        local = [at for at, heap in enumerate(heaps) if heap.flags & constants.VK_MEMORY_HEAP_DEVICE_LOCAL_BIT]
        local = local or list(range(len(heaps)))
        total = free = sum(heaps[at].size for at in local)
        # A heap's budget is never 0 (VkPhysicalDeviceMemoryBudgetPropertiesEXT). A driver that says so, such as a mock
        # one, reports no budget.
        if has_budget and any(budget.heapBudget[at] for at in local):
            free = sum(max(0, budget.heapBudget[at] - budget.heapUsage[at]) for at in local)
        if kind in (DeviceType.INTEGRATED, DeviceType.CPU):
            free = min(free, available_host_memory())
        return cls(total, free, _memory_problem(properties))


def _memory_problem(properties: CData) -> str:
    """A driver without hardware behind it has no heap of any size."""
    sizes = [heap.size for heap in properties.memoryHeaps[0 : properties.memoryHeapCount]]
    types = [
        kind
        for kind in properties.memoryTypes[0 : properties.memoryTypeCount]
        if kind.heapIndex < len(sizes) and sizes[kind.heapIndex]
    ]
    if not types:
        return "it has no memory"
    if not any(kind.propertyFlags & HOST_COHERENT == HOST_COHERENT for kind in types):
        return "it has no memory that the host can write"
    return ""


def current_free_memory(physical: CData, info: DeviceInfo) -> int:
    """`info.memory_free` at this moment, read through the open handle: a new instance would restart the validation
    layers, which truncates their log.
    """
    return Memory.of(physical, info.type, info.extensions).free
