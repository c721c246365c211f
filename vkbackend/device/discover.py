"""Which Vulkan devices are there, what can they do, and which one to use.

Out: `list_devices() -> list[DeviceInfo]` in the driver's order, `choose(...) -> Choice` with the reason in words.
Opens nothing.
"""

from dataclasses import asdict, dataclass, field
from enum import IntEnum

from ..errors import NoDevice
from . import cooperative_matrix, vulkan
from . import vulkan_constants as constants
from .host_memory import available_host_memory


class DeviceType(IntEnum):
    OTHER = 0
    INTEGRATED = 1
    DISCRETE = 2
    VIRTUAL = 3
    CPU = 4


# Dedicated GPUs first, software renderers last.
PREFERENCE = [DeviceType.DISCRETE, DeviceType.VIRTUAL, DeviceType.INTEGRATED, DeviceType.OTHER, DeviceType.CPU]

FEATURES = (
    "subgroup_basic",
    "subgroup_ballot",
    "subgroup_arithmetic",
    "subgroup_shuffle",
    "subgroup_size_control",
    "storage16",
    "storage8",
    "float16",
    "int8",
    "int16",
    "int64",
    "integer_dot_product",
    "memory_model",
    "cooperative_matrix",
    "float64",
    "subgroup_vote",
    "subgroup_shuffle_relative",
    "subgroup_clustered",
    "subgroup_quad",
    "uniform_storage16",
    "push_constant16",
    "uniform_storage8",
    "push_constant8",
    "memory_model_device_scope",
)

# What the kernels of the flavors `subgroup` and `texel` need.
SUBGROUP_FEATURES = frozenset(
    ("subgroup_basic", "subgroup_ballot", "subgroup_arithmetic", "subgroup_shuffle", "subgroup_size_control")
)

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
# Where optional features are told and asked for: (struct, the minor version of Vulkan that has it, the extension that
# has it before).
FEATURE_STRUCTS = (
    ("VkPhysicalDevice8BitStorageFeatures", 2, "VK_KHR_8bit_storage"),
    ("VkPhysicalDeviceShaderFloat16Int8Features", 2, "VK_KHR_shader_float16_int8"),
    ("VkPhysicalDeviceSubgroupSizeControlFeatures", 3, "VK_EXT_subgroup_size_control"),
    ("VkPhysicalDeviceShaderIntegerDotProductFeatures", 3, "VK_KHR_shader_integer_dot_product"),
    ("VkPhysicalDeviceVulkanMemoryModelFeatures", 2, "VK_KHR_vulkan_memory_model"),
    ("VkPhysicalDeviceCooperativeMatrixFeaturesKHR", NEVER_CORE, "VK_KHR_cooperative_matrix"),
)
HOST_COHERENT = constants.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | constants.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT
ROOMY_TEXEL_BUFFER = 1 << 24  # elements; Vulkan promises 65,536


@dataclass(frozen=True)
class Limits:
    max_storage_buffer_range: int
    min_storage_buffer_offset_alignment: int
    max_texel_buffer_elements: int
    min_texel_buffer_offset_alignment: int
    max_push_constants_bytes: int
    max_workgroup_invocations: int
    max_workgroup_subgroups: int
    max_workgroup_size: tuple[int, int, int]
    max_workgroup_count: tuple[int, int, int]
    max_shared_memory_bytes: int
    max_allocations: int
    timestamp_period_ns: float
    max_storage_buffers: int = 4  # of one shader; Vulkan promises so many


@dataclass(frozen=True)
class DeviceInfo:
    """One physical device. Memory in bytes; `memory_free` is what may be taken now (see `_memory`)."""

    index: int
    name: str
    type: DeviceType
    vendor_id: int
    driver: str
    driver_version: str
    api: tuple[int, int, int]
    uuid: str
    subgroup_size: int
    subgroup_min: int
    subgroup_max: int
    features: frozenset[str]
    limits: Limits
    memory_total: int
    memory_free: int
    compute_family: int
    timestamp_bits: int
    extensions: frozenset[str] = field(repr=False, default=frozenset())
    problem: str = ""  # why nothing can run here; empty where something can

    @property
    def is_unified(self) -> bool:
        """The host writes the device's own memory: integrated GPUs and CPU devices."""
        return self.type in (DeviceType.INTEGRATED, DeviceType.CPU)

    @property
    def is_cpu(self) -> bool:
        """A software driver: threads instead of a GPU."""
        return self.type is DeviceType.CPU

    @property
    def flavors(self) -> tuple[str, ...]:
        """The families of kernel variants that can run here, best first: `texel` (subgroups, inputs as texel
        buffers, which llvmpipe gathers much faster than storage buffers), `subgroup`, `base` (no optional feature).
        """
        if not SUBGROUP_FEATURES <= self.features or self.api < (1, 2):
            return ("base",)
        # Not where only small things fit a texel buffer: they would be cut into many parts.
        texel_first = self.is_cpu and self.limits.max_texel_buffer_elements >= ROOMY_TEXEL_BUFFER
        return ("texel", "subgroup", "base") if texel_first else ("subgroup", "texel", "base")

    @property
    def subgroup_sizes(self) -> tuple[int, ...]:
        """Every subgroup size that a kernel may ask for."""
        return tuple(size for size in (4, 8, 16, 32, 64, 128) if self.subgroup_min <= size <= self.subgroup_max)

    @property
    def key(self) -> str:
        """Names this device with this driver, for caches."""
        return f"{self.uuid}-{self.driver_version}".replace(" ", "_").replace("/", "_")

    def as_dict(self) -> dict:
        described = asdict(self) | {
            "type": self.type.name.lower(),
            "api": ".".join(map(str, self.api)),
            "features": sorted(self.features),
        }
        del described["extensions"], described["problem"]  # the reason says it
        return described


def list_devices() -> list[DeviceInfo]:
    """All devices that can compute. Raises NoDevice where there is no loader or no driver."""
    ffi, lib = vulkan.load()
    instance = vulkan.new_instance()
    try:
        found = [
            describe(instance, index, physical) for index, physical in enumerate(vulkan.physical_devices(instance))
        ]
        return [info for info in found if info is not None]
    finally:
        lib.vkDestroyInstance(instance, ffi.NULL)


def describe(instance, index: int, physical) -> DeviceInfo | None:
    """Facts about one physical device; None where it has no compute queue or only Vulkan 1.0."""
    ffi, lib = vulkan.load()
    basic = ffi.new("VkPhysicalDeviceProperties*")
    lib.vkGetPhysicalDeviceProperties(physical, basic)
    if basic.apiVersion < vulkan.API_1_1:
        return None
    family = _compute_family(physical)
    if family is None:
        return None
    extensions = vulkan.device_extensions(physical)

    driver = vulkan.struct("VkPhysicalDeviceDriverProperties")
    size_control = vulkan.struct("VkPhysicalDeviceSubgroupSizeControlProperties")
    subgroup = vulkan.struct("VkPhysicalDeviceSubgroupProperties")
    identity = vulkan.struct("VkPhysicalDeviceIDProperties", next_=subgroup)
    properties = vulkan.struct("VkPhysicalDeviceProperties2", next_=identity)
    last = subgroup
    if _has(basic.apiVersion, 2, "VK_KHR_driver_properties", extensions):
        last.pNext, last = driver, driver
    if _has(basic.apiVersion, 3, "VK_EXT_subgroup_size_control", extensions):
        last.pNext = size_control
    lib.vkGetPhysicalDeviceProperties2(physical, properties)

    p, limits = properties.properties, properties.properties.limits
    size = subgroup.subgroupSize
    features = _features(physical, basic.apiVersion, extensions, subgroup)
    if "cooperative_matrix" in features:
        features |= {f"cooperative_matrix_{size}" for size in cooperative_matrix.sizes(instance, physical)}
    kind = DeviceType(p.deviceType) if p.deviceType in iter(DeviceType) else DeviceType.OTHER
    total, free = _memory(physical, kind, "VK_EXT_memory_budget" in extensions)
    return DeviceInfo(
        index=index,
        name=ffi.string(p.deviceName).decode(),
        type=kind,
        vendor_id=p.vendorID,
        driver=f"{ffi.string(driver.driverName).decode()} {ffi.string(driver.driverInfo).decode()}".strip()
        or "unknown",
        driver_version=f"{p.driverVersion:#x}",
        api=(p.apiVersion >> 22, p.apiVersion >> 12 & 0x3FF, p.apiVersion & 0xFFF),
        uuid=bytes(identity.deviceUUID).hex(),
        subgroup_size=size,
        subgroup_min=size_control.minSubgroupSize or size,
        subgroup_max=size_control.maxSubgroupSize or size,
        features=features,
        limits=Limits(
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
        ),
        memory_total=total,
        memory_free=free,
        compute_family=family[0],
        timestamp_bits=family[1],
        extensions=frozenset(extensions),
        problem=_memory_problem(physical),
    )


def _has(api: int, minor: int, extension: str, extensions: set[str]) -> bool:
    return (api >> 12 & 0x3FF) >= minor or api >> 22 > 1 or extension in extensions


def feature_chain(physical, api: int, extensions) -> tuple[object, dict[str, object]]:
    """-> (VkPhysicalDeviceFeatures2 filled by the driver, its chained structs by name): only structs that the device
    knows.
    """
    ffi, lib = vulkan.load()
    structs: dict[str, object] = {
        "VkPhysicalDevice16BitStorageFeatures": vulkan.struct("VkPhysicalDevice16BitStorageFeatures")
    }
    for name, minor, extension in FEATURE_STRUCTS:
        if _has(api, minor, extension, extensions):
            structs[name] = vulkan.struct(name)
    features = vulkan.struct("VkPhysicalDeviceFeatures2")
    previous = features
    for each in structs.values():
        previous.pNext = each
        previous = each
    lib.vkGetPhysicalDeviceFeatures2(physical, features)
    return features, structs


def _features(physical, api, extensions, subgroup) -> frozenset[str]:
    features, structs = feature_chain(physical, api, extensions)
    core, compute_stage = features.features, subgroup.supportedStages & constants.VK_SHADER_STAGE_COMPUTE_BIT
    operations = subgroup.supportedOperations if compute_stage else 0
    present = {name: operations & bit for name, bit in SUBGROUP_BITS.items()}
    present |= {"float64": core.shaderFloat64, "int64": core.shaderInt64, "int16": core.shaderInt16}
    for name, struct, field_name in (
        ("storage16", "VkPhysicalDevice16BitStorageFeatures", "storageBuffer16BitAccess"),
        ("storage8", "VkPhysicalDevice8BitStorageFeatures", "storageBuffer8BitAccess"),
        ("uniform_storage16", "VkPhysicalDevice16BitStorageFeatures", "uniformAndStorageBuffer16BitAccess"),
        ("push_constant16", "VkPhysicalDevice16BitStorageFeatures", "storagePushConstant16"),
        ("uniform_storage8", "VkPhysicalDevice8BitStorageFeatures", "uniformAndStorageBuffer8BitAccess"),
        ("push_constant8", "VkPhysicalDevice8BitStorageFeatures", "storagePushConstant8"),
        ("memory_model_device_scope", "VkPhysicalDeviceVulkanMemoryModelFeatures", "vulkanMemoryModelDeviceScope"),
        ("float16", "VkPhysicalDeviceShaderFloat16Int8Features", "shaderFloat16"),
        ("int8", "VkPhysicalDeviceShaderFloat16Int8Features", "shaderInt8"),
        ("integer_dot_product", "VkPhysicalDeviceShaderIntegerDotProductFeatures", "shaderIntegerDotProduct"),
        ("memory_model", "VkPhysicalDeviceVulkanMemoryModelFeatures", "vulkanMemoryModel"),
        ("cooperative_matrix", "VkPhysicalDeviceCooperativeMatrixFeaturesKHR", "cooperativeMatrix"),
    ):
        present[name] = struct in structs and getattr(structs[struct], field_name)
    control = structs.get("VkPhysicalDeviceSubgroupSizeControlFeatures")
    present["subgroup_size_control"] = control and control.subgroupSizeControl and control.computeFullSubgroups
    return frozenset(name for name in FEATURES if present[name])


def _compute_family(physical) -> tuple[int, int] | None:
    """-> (index, timestamp bits) of the first queue family that computes."""
    ffi, lib = vulkan.load()
    count = ffi.new("uint32_t*")
    lib.vkGetPhysicalDeviceQueueFamilyProperties(physical, count, ffi.NULL)
    families = ffi.new("VkQueueFamilyProperties[]", count[0])
    lib.vkGetPhysicalDeviceQueueFamilyProperties(physical, count, families)
    for index in range(count[0]):
        if families[index].queueFlags & constants.VK_QUEUE_COMPUTE_BIT:
            return index, families[index].timestampValidBits
    return None


def _memory(physical, kind: DeviceType, has_budget: bool) -> tuple[int, int]:
    """-> (total, free) bytes of the device's own heaps. Free is the driver's budget where it tells one; on devices
    that share the host's memory never more than the host has available.
    """
    ffi, lib = vulkan.load()
    budget = vulkan.struct("VkPhysicalDeviceMemoryBudgetPropertiesEXT")
    memory = vulkan.struct("VkPhysicalDeviceMemoryProperties2", next_=budget if has_budget else None)
    lib.vkGetPhysicalDeviceMemoryProperties2(physical, memory)
    heaps = memory.memoryProperties.memoryHeaps[0 : memory.memoryProperties.memoryHeapCount]
    local = [i for i, heap in enumerate(heaps) if heap.flags & constants.VK_MEMORY_HEAP_DEVICE_LOCAL_BIT] or list(
        range(len(heaps))
    )
    total = sum(heaps[i].size for i in local)
    # A heap's budget is never 0 (VkPhysicalDeviceMemoryBudgetPropertiesEXT): a driver that says so, such as a mock one,
    # tells none.
    told = has_budget and any(budget.heapBudget[i] for i in local)
    free = sum(max(0, budget.heapBudget[i] - budget.heapUsage[i]) for i in local) if told else total
    if kind in (DeviceType.INTEGRATED, DeviceType.CPU):
        free = min(free, available_host_memory())
    return total, free


def _memory_problem(physical) -> str:
    """Why no buffer can be made; empty where one can. A driver without hardware behind it has no heap of any size."""
    ffi, lib = vulkan.load()
    memory = vulkan.struct("VkPhysicalDeviceMemoryProperties2")
    lib.vkGetPhysicalDeviceMemoryProperties2(physical, memory)
    found = memory.memoryProperties
    sizes = [heap.size for heap in found.memoryHeaps[0 : found.memoryHeapCount]]
    types = [
        kind
        for kind in found.memoryTypes[0 : found.memoryTypeCount]
        if kind.heapIndex < len(sizes) and sizes[kind.heapIndex]
    ]
    if not types:
        return "it has no memory"
    if not any(kind.propertyFlags & HOST_COHERENT == HOST_COHERENT for kind in types):
        return "it has no memory that the host can write"
    return ""


def current_free_memory(physical, info: DeviceInfo) -> int:
    """`info.memory_free` as it is now, asked of the handle that is open: a new instance would start validation
    layers anew, which empties the file that they write to.
    """
    return _memory(physical, info.type, "VK_EXT_memory_budget" in info.extensions)[1]


@dataclass(frozen=True)
class Choice:
    """The device to use first and, for every device, why it was chosen or not. usable: all that models may be placed
    on, in the order in which they are preferred.
    """

    device: DeviceInfo
    reasons: dict[int, str]
    usable: list[DeviceInfo]


def choose(devices: list[DeviceInfo], visible: str = "") -> Choice:
    """Pick by type: discrete, virtual, integrated, other; CPU devices only where they are named in `visible`
    (GGML_VK_VISIBLE_DEVICES: indices, comma-separated), or the best one where nothing else is there. Among equals
    the one with more memory. A device on which nothing can run is never picked.

    Raises NoDevice where nothing is left.
    """
    reasons = {}
    named = _indices(visible, devices)
    left = []
    for device in devices:
        if device.problem:
            reasons[device.index] = f"cannot be used: {device.problem}"
        elif named is not None and device.index not in named:
            reasons[device.index] = f"not in GGML_VK_VISIBLE_DEVICES={visible}"
        else:
            left.append(device)
    if named is None and any(device.type is not DeviceType.CPU for device in left):
        for device in [device for device in left if device.type is DeviceType.CPU]:
            reasons[device.index] = "a CPU device, and a GPU is there; name it in GGML_VK_VISIBLE_DEVICES to use it"
            left.remove(device)
    if not left:
        broken = "; ".join(f"{device.name} cannot be used: {device.problem}" for device in devices if device.problem)
        if broken and named is None:
            raise NoDevice(
                f"no Vulkan device can be used ({broken}); install your GPU's driver, and see `vkbackend devices`"
            )
        raise NoDevice(
            f"no Vulkan device is left: GGML_VK_VISIBLE_DEVICES={visible!r} of {len(devices)} found; see `vkbackend "
            f"devices`"
            if devices
            else "no Vulkan device was found; see `vulkaninfo --summary`"
        )
    usable = sorted(left, key=lambda device: (PREFERENCE.index(device.type), -device.memory_total, device.index))
    best = usable[0]
    for device in usable[1:]:
        reasons[device.index] = f"{best.type.name.lower()} device {best.index} comes first"
    alone = (
        "named in GGML_VK_VISIBLE_DEVICES"
        if named is not None
        else "the only device"
        if len(devices) == 1
        else "best by type and memory"
    )
    reasons[best.index] = f"chosen: {best.type.name.lower()}, {alone}"
    if named is None and best.is_cpu:
        usable = [best]  # several software drivers would share one CPU
    return Choice(best, reasons, usable)


def _indices(visible: str, devices: list[DeviceInfo]) -> set[int] | None:
    if not visible.strip():
        return None
    try:
        return {int(part) for part in visible.split(",") if part.strip()}
    except ValueError:
        raise NoDevice(
            f"GGML_VK_VISIBLE_DEVICES={visible!r} is not a list of device indices such as 0,1; "
            f"there are {len(devices)}: see `vkbackend devices`"
        ) from None
