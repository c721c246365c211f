"""The subgroup sizes that kernels require, by driver. Figures: docs/performance.md.

In: a driver's id. Out: `LaneRule`. This is the only place that chooses lanes by driver.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from . import vulkan_constants as vk

Tile = tuple[int, int]  # rows and tokens per lane of matmul.comp


@dataclass(frozen=True)
class LaneRule:
    """The lanes of a driver's kernels. A size outside of what the device supports becomes the nearest that it does.

    lanes: of most kernels, and the rows of a group of a gated weight; 0: the driver's own subgroup size.
    head_lanes: of attention and split_heads, which round alike only with the same lanes; 0: like most kernels.
    head_eights: groups of eight values that a lane of attention may sum up for all heads of its group (see
        `ops.attention.together`).
    tiles: the tiles of matmul.comp that models use, with their lanes; None: all that are built.
    """

    lanes: int = 0
    head_lanes: int = 0
    head_eights: int = 8
    tiles: Mapping[Tile, int] | None = field(default=None, hash=False)


DEFAULT = LaneRule()

# A thread of an Intel execution unit has 128 registers of 32 bytes: at the driver's 32 lanes, 32 values per lane, and
# every product spills. Tiles that are not listed spill in some format at every size.
INTEL = LaneRule(
    lanes=16,
    head_lanes=8,
    head_eights=2,
    tiles={(1, 1): 16, (2, 1): 16, (4, 1): 8, (4, 2): 8, (2, 4): 8},
)

RULES = {vk.VK_DRIVER_ID_INTEL_OPEN_SOURCE_MESA: INTEL, vk.VK_DRIVER_ID_INTEL_PROPRIETARY_WINDOWS: INTEL}


def rule_of(driver_id: int) -> LaneRule:
    """The rule of a driver (VkDriverId)."""
    return RULES.get(driver_id, DEFAULT)
