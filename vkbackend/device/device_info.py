"""A physical device as data: its type, features, limits and memory.

`discover` fills these in, `choosing` compares them.
"""

from dataclasses import asdict, dataclass, field
from enum import IntEnum

from .lanes import LaneRule, rule_of
from .vulkan_constants import VK_DRIVER_ID_MESA_LLVMPIPE

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

# Features that the kernels of the flavors `subgroup` and `texel` need.
SUBGROUP_FEATURES = frozenset(
    ("subgroup_basic", "subgroup_ballot", "subgroup_arithmetic", "subgroup_shuffle", "subgroup_size_control")
)
ROOMY_TEXEL_BUFFER = 1 << 24  # elements; Vulkan guarantees only 65,536


class DeviceType(IntEnum):
    """VkPhysicalDeviceType."""

    OTHER = 0
    INTEGRATED = 1
    DISCRETE = 2
    VIRTUAL = 3
    CPU = 4


@dataclass(frozen=True)
class DeviceLimits:
    """VkPhysicalDeviceLimits, as far as they matter here."""

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
    max_storage_buffers: int = 4  # of one shader; Vulkan guarantees 4


@dataclass(frozen=True)
class DeviceInfo:
    """One physical device. Memory in bytes; `memory_free`: what can be allocated now (see `discover.Memory`)."""

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
    limits: DeviceLimits
    memory_total: int
    memory_free: int
    compute_family: int
    timestamp_bits: int
    extensions: frozenset[str] = field(repr=False, default=frozenset())
    problem: str = ""  # why nothing can run here; empty if the device can be used
    driver_id: int = 0  # VkDriverId; 0 if the driver does not tell

    @property
    def is_unified(self) -> bool:
        """Whether the host can write the device's own memory: integrated GPUs and CPU devices."""
        return self.type in (DeviceType.INTEGRATED, DeviceType.CPU)

    @property
    def is_cpu(self) -> bool:
        """Whether this is a software driver, which runs on threads instead of a GPU."""
        return self.type is DeviceType.CPU

    @property
    def flavors(self) -> tuple[str, ...]:
        """The families of kernel variants that can run here, best first: `texel` (subgroups, inputs as texel
        buffers, which llvmpipe gathers much faster than storage buffers), `subgroup`, `base` (no optional feature).
        """
        if not SUBGROUP_FEATURES <= self.features or self.api < (1, 2) or self.lanes not in self.subgroup_sizes:
            return ("base",)
        # With small texel buffers, weights would be cut into many parts.
        texel_first = self.is_cpu and self.limits.max_texel_buffer_elements >= ROOMY_TEXEL_BUFFER
        return ("texel", "subgroup", "base") if texel_first else ("subgroup", "texel", "base")

    @property
    def subgroup_sizes(self) -> tuple[int, ...]:
        """All subgroup sizes that a kernel may require."""
        return tuple(size for size in (4, 8, 16, 32, 64, 128) if self.subgroup_min <= size <= self.subgroup_max)

    @property
    def compiles_when_run(self) -> bool:
        """Whether the driver compiles a kernel when it runs for the first time, not when its pipeline is made."""
        return self.driver_id == VK_DRIVER_ID_MESA_LLVMPIPE

    @property
    def lane_rule(self) -> LaneRule:
        """The lanes that the driver's kernels take."""
        return rule_of(self.driver_id)

    @property
    def lanes(self) -> int:
        """The subgroup size that most kernels require."""
        return self.supported_lanes(self.lane_rule.lanes or self.subgroup_size)

    def supported_lanes(self, lanes: int) -> int:
        """The supported subgroup size nearest to `lanes`."""
        return min(max(lanes, self.subgroup_min), self.subgroup_max)

    @property
    def key(self) -> str:
        """Identifies this device with this driver, for caches."""
        return f"{self.uuid}-{self.driver_version}".replace(" ", "_").replace("/", "_")

    def as_dict(self) -> dict[str, object]:
        """JSON values; without `extensions` and `problem`, which the reason of the choice contains."""
        described = asdict(self) | {
            "type": self.type.name.lower(),
            "api": ".".join(map(str, self.api)),
            "features": sorted(self.features),
        }
        del described["extensions"], described["problem"], described["driver_id"]
        return described
