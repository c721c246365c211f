"""The memory that a model takes in each place, counted before anything is loaded, and whether it fits.

In: a `ModelFile`, the places of its layers, and the sizes of its runner. Out: a `MemoryPlan`: bytes of weights as they
are placed, cache, scratch and loading for each device and the CPU; the pages of the cache that fit; the bytes of
weights that the CPU path may dequantize.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from .. import settings
from ..cpu.alignment import copied_bytes
from ..cpu.executor import host_path
from ..device.context import RING_BYTES
from ..device.host_memory import available_host_memory, free_swap, total_host_memory
from ..engine.cache_room import CacheRoom, fitting_layout, smallest
from ..errors import OutOfMemory
from ..graph.cache import host_dtype
from ..graph.cache_layout import CacheLayout
from ..graph.model import LayeredModel
from ..graph.parts import LayerSpan
from ..graph.scratch import StepLimits, scratch_bytes
from ..graph.vector import Vector
from ..loading import SHARE_FOR_WEIGHTS, UNLIMITED, ModelFile, cpu_copies, make_layers
from ..models.upload import device_bytes
from ..models.weights import Weights
from ..ops.packed import PackedMatrix
from .gpus import Gpu
from .layout import more_system_memory

# Of the host's free memory: not used for what a model can do without (pages of further sequences, dequantized weights).
# Counts are within 5%, and a system without free memory ends processes.
SPARE = 1 / 16
# Of the host's memory, for kernels that a driver compiles: llvmpipe takes 33 MiB for SmolLM2, 46 MiB for gemma3.
DRIVER_BYTES = 64 << 20
CPU = "CPU"
HOST = "the host"


@dataclass(frozen=True)
class PlaceMemory:
    """Bytes that layers take in one place.

    name: of the device, or CPU. layers: their number, the output included. weights: private bytes. mapped: bytes of the
    file that the CPU path reads in place. cache: as allocated. scratch: of the largest step, and what the driver of a
    device that shares the host's memory takes for kernels. loading: for copies to a device. free: before the model is
    loaded.
    """

    name: str
    layers: int
    weights: int
    mapped: int = 0
    cache: int = 0
    scratch: int = 0
    loading: int = 0
    free: int = 0

    @property
    def private(self) -> int:
        """Bytes without mapped ones: what the process takes."""
        return self.weights + self.cache + self.scratch + self.loading

    @property
    def total(self) -> int:
        """Bytes that must be free."""
        return self.private + self.mapped

    @property
    def fits(self) -> bool:
        """Whether the place has room for its layers, if nothing else takes it."""
        return self.total <= self.free


@dataclass(frozen=True)
class MemoryPlan:
    """places: devices and the CPU, in the order of the layers. layout: of the cache, with the pages that fit. rooms:
    the room for the cache on each device and on the host. copy_budget: bytes of weights that the CPU path may
    dequantize; copies_wanted: what it would take with enough memory. problem: why the model does not fit; then only
    `places` is meaningful, and counts the cache of one sequence. context_length: of one sequence.
    """

    places: tuple[PlaceMemory, ...]
    layout: CacheLayout
    rooms: tuple[CacheRoom, ...]
    copy_budget: int
    copies_wanted: int
    problem: str | None = None  # not the exception, whose traceback would keep the file and its layers
    context_length: int = 0

    def as_dict(self) -> dict[str, object]:
        """JSON values: what /api/memory answers. Sizes in bytes."""
        return {
            "places": [asdict(place) | {"total": place.total, "fits": place.fits} for place in self.places],
            "cache_tokens": self.layout.num_pages * self.layout.page_size,
            "cache_type": self.layout.kind,
            "context_length": self.context_length,
            "fits": self.problem is None,
            "problem": self.problem or "",
        }


@dataclass(frozen=True)
class Place:
    """A device, or the CPU (gpu None), and the layers that go there: one span or several."""

    gpu: Gpu | None
    spans: tuple[LayerSpan, ...]

    @property
    def shares_host(self) -> bool:
        """Whether its memory is the host's."""
        return self.gpu is None or self.gpu.is_integrated

    @property
    def blocks(self) -> list[int]:
        """The blocks among its layers."""
        return [layer for span in self.spans for layer in span.blocks]

    def holds(self, name: str) -> bool:
        """Whether its layers need the tensor `name`."""
        return any(span.holds(name) for span in self.spans)


def plan_memory(
    file: ModelFile, places: Sequence[Place], layout: CacheLayout, limits: StepLimits, held: int = 0
) -> MemoryPlan:
    """Count what the layers of `file` take in `places`. No weights are read.

    layout: of the cache, with all pages that it could use. limits: of the largest step. held: bytes of the host's
    memory that count as free. Raises GGUFError, UnsupportedModel.
    """
    weights, layers = make_layers(file)
    free = with_held(available_host_memory(), held)
    host_free = free + free_swap()
    fixed = [
        replace(_weights(file, weights, place, free), scratch=_scratch(file, layers, place, layout, limits))
        for place in places
    ]
    rooms = _rooms(places, fixed, host_free)
    least = smallest(layout)
    problem = None
    try:
        _check(places, fixed, least, rooms, host_free)
        fitting = fitting_layout(layout, rooms)
    except OutOfMemory as error:
        problem, fitting = str(error), least
    factors = [
        matrix for place in places if place.gpu is None for matrix in weights.factors if place.holds(matrix.name)
    ]
    budget = _copy_budget(places, fixed, fitting, free, host_free)
    copies = _copied(factors, budget)
    found = [
        replace(
            each,
            weights=each.weights + (copies if place.gpu is None else 0),
            cache=_cache_bytes(place, fitting, free - copies),
        )
        for place, each in zip(places, fixed)
    ]
    return MemoryPlan(tuple(found), fitting, tuple(rooms), budget, _copied(factors, UNLIMITED), problem)


def with_held(free: int, held: int) -> int:
    """The host's free memory if `held` bytes more were free: at most all that it has."""
    return min(total_host_memory(), free + held) if held else free


def _weights(file: ModelFile, weights: Weights, place: Place, host_free: int) -> PlaceMemory:
    """What a place takes for weights, but for the dequantized copies that the CPU path may make."""
    gpu = place.gpu
    held = [weight for weight in weights.made if place.holds(weight.name)]
    num_layers = sum(span.last - span.first for span in place.spans)
    if gpu is None:
        mapped = sum(info.num_bytes for info in file.tensors if place.holds(info.name))
        vectors = sum(weight.values.nbytes for weight in held if isinstance(weight, Vector))
        copies = copied_bytes(matrix for matrix in weights.factors if place.holds(matrix.name))
        return PlaceMemory(CPU, num_layers, vectors + copies, mapped - copies, free=host_free)
    return PlaceMemory(
        gpu.name,
        num_layers,
        sum(
            device_bytes(weight, gpu.lanes)
            for span in place.spans
            for weight in weights.made
            if span.holds(weight.name)
        ),
        loading=0 if gpu.is_integrated else RING_BYTES,
        free=max(0, gpu.free - settings.get("OLLAMA_GPU_OVERHEAD")),
    )


def _scratch(file: ModelFile, layers: LayeredModel, place: Place, layout: CacheLayout, limits: StepLimits) -> int:
    """Scratch of all executors of a place, and of the driver. On the CPU an executor gives its memory back before
    another runs.
    """
    on_device = place.gpu is not None
    kernels = () if on_device else host_path().kernels
    sizes = [
        scratch_bytes(
            layers,
            span,
            layout,
            limits,
            file.config,
            on_device=on_device,
            is_unified=place.shares_host,
            kernels=kernels,
        )
        for span in place.spans
    ]
    if not on_device:
        return max(sizes)
    return sum(sizes) + (DRIVER_BYTES if place.shares_host else 0)


def _rooms(places: Sequence[Place], fixed: Sequence[PlaceMemory], host_free: int) -> list[CacheRoom]:
    """The room for the cache on each device, and on the host for all places that share its memory."""
    rooms = [
        CacheRoom(each.name, place.blocks, each.free - each.total, place.gpu.largest_binding or None)
        for place, each in zip(places, fixed)
        if place.gpu is not None
    ]
    shared = [(place, each) for place, each in zip(places, fixed) if place.shares_host]
    if shared:
        layers = [layer for place, _ in shared for layer in place.blocks]
        name = CPU if all(place.gpu is None for place, _ in shared) else HOST
        left = host_free - sum(each.total for _, each in shared)
        rooms.append(CacheRoom(name, layers, left, spare=int(host_free * SPARE)))
    return rooms


def _check(
    places: Sequence[Place],
    fixed: Sequence[PlaceMemory],
    least: CacheLayout,
    rooms: Sequence[CacheRoom],
    host_free: int,
) -> None:
    """Raises OutOfMemory unless there is room for everything with the cache of one sequence, `least`."""
    for place, each in zip(places, fixed):
        if place.gpu is not None and each.total > each.free:
            raise OutOfMemory(
                f"weights and activations need {each.total / 2**30:.2f} GiB; {each.name} has "
                f"{each.free / 2**30:.2f} GiB free"
            )
    needed = sum(
        each.total + sum(least.layer_bytes(layer) for layer in place.blocks)
        for place, each in zip(places, fixed)
        if place.shares_host
    )
    if needed > host_free:
        raise more_system_memory(needed, host_free)


def _copy_budget(
    places: Sequence[Place], fixed: Sequence[PlaceMemory], layout: CacheLayout, free: int, host_free: int
) -> int:
    """Bytes of weights that the CPU path may dequantize: what everything else leaves, and a share of free memory at
    most.
    """
    others = sum(
        each.total + _cache_bytes(place, layout, free) for place, each in zip(places, fixed) if place.shares_host
    )
    return max(0, min(int(free * SHARE_FOR_WEIGHTS), int(host_free * (1 - SPARE)) - others))


def _copied(factors: list[PackedMatrix], budget: int) -> int:
    """Bytes of the CPU path's copies of weights."""
    return sum(matrix.f32_bytes for matrix in cpu_copies(factors, budget))


def _cache_bytes(place: Place, layout: CacheLayout, host_free: int) -> int:
    """Bytes of the cache in the type that it takes there. host_free: when the cache is made."""
    dtype = host_dtype(layout, place.blocks, host_free, host_path().reads_halves) if place.gpu is None else None
    return sum(layout.layer_bytes(layer, dtype) for layer in place.blocks)
