"""How many pages the KV cache gets: as many as all sequences need, or as many as fit in every place that holds layers.

In: a `CacheLayout` for all sequences and the room in each place. Out: the layout with the pages that fit. The rule is
the same before a model is loaded (`placement.memory_plan`) and when a runner is made for loaded layers.
"""

import bisect
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import OutOfMemory
from ..graph.cache_layout import CacheLayout

log = logging.getLogger(__name__)

HINT = "use a smaller num_ctx (OLLAMA_CONTEXT_LENGTH)"


@dataclass(frozen=True)
class CacheRoom:
    """Room for the cache of some layers.

    name: of the device, or of the CPU. layers: their numbers. free: bytes. largest_binding: the most bytes of a
    layer's keys or values; None: any. spare: bytes of `free` that only the least cache may use.
    """

    name: str
    layers: Sequence[int]
    free: int
    largest_binding: int | None = None
    spare: int = 0

    def wants(self, layout: CacheLayout) -> int:
        """Bytes of its layers' cache."""
        return sum(layout.layer_bytes(layer) for layer in self.layers)

    def largest_tensor(self, layout: CacheLayout) -> int:
        """The most bytes of the keys or values of one of its layers."""
        return max((layout.layer_bytes(layer) // 2 for layer in self.layers), default=0)

    def holds(self, layout: CacheLayout) -> bool:
        """Whether the cache fits, and leaves what is spare."""
        fits_binding = self.largest_binding is None or self.largest_tensor(layout) <= self.largest_binding
        return fits_binding and self.wants(layout) <= self.free - self.spare

    def check(self, layout: CacheLayout) -> None:
        """Raises OutOfMemory, which says what is too large, unless the cache fits."""
        largest = self.largest_tensor(layout)
        if self.largest_binding is not None and largest > self.largest_binding:
            raise OutOfMemory(
                f"the KV cache of one layer needs {largest} bytes; {self.name} binds at most {self.largest_binding}: "
                f"{HINT}"
            )
        if self.wants(layout) > self.free:
            raise OutOfMemory(
                f"the KV cache needs {self.wants(layout) / 2**30:.2f} GiB; {self.name} has "
                f"{max(self.free, 0) / 2**30:.2f} GiB free: {HINT}"
            )


def fitting_layout(layout: CacheLayout, rooms: Sequence[CacheRoom]) -> CacheLayout:
    """`layout`, with fewer snapshots if not all fit, and with fewer pages if it does not fit without any.

    Raises OutOfMemory if the pages of one sequence do not fit.
    """
    least = smallest(layout)
    for room in rooms:
        room.check(least)
    without = layout.with_snapshots(0)

    def smaller(steps: int) -> CacheLayout:
        """The layout without `steps` of its snapshots, and then pages."""
        if steps <= layout.num_snapshots:
            return layout.with_snapshots(layout.num_snapshots - steps)
        return without.limited(layout.num_pages - (steps - layout.num_snapshots))

    steps = range(layout.num_snapshots + layout.num_pages - least.num_pages)
    return smaller(bisect.bisect_left(steps, True, key=lambda count: all(room.holds(smaller(count)) for room in rooms)))


def smallest(layout: CacheLayout) -> CacheLayout:
    """`layout` with the pages of one sequence, and without snapshots."""
    return layout.with_snapshots(0).limited(layout.groups[0].pages_per_sequence)


def log_fewer_pages(layout: CacheLayout, wanted: CacheLayout, rooms: Sequence[CacheRoom]) -> None:
    """Log what `layout` has less than `wanted`, with a place that has no room for more."""
    full = next((room.name for room in rooms if not room.holds(wanted)), "")
    if layout.num_pages < wanted.num_pages:
        log.warning(
            "%s has room for a KV cache of %d tokens, but %d sequences of %d need more; long ones may have to wait. "
            "Use a smaller num_ctx (OLLAMA_CONTEXT_LENGTH) or fewer parallel sequences (OLLAMA_NUM_PARALLEL)",
            full,
            layout.num_pages * layout.page_size,
            wanted.num_sequences,
            layout.groups[0].pages_per_sequence * layout.page_size,
        )
    elif layout.num_snapshots < wanted.num_snapshots and len(wanted.groups) > 1:
        log.warning(
            "%s has room for %d snapshots of windows instead of %d: more prompts run from their beginning",
            full,
            layout.num_snapshots,
            wanted.num_snapshots,
        )
