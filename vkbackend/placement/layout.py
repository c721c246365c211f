"""Which layers of a model go to which device: as many as fit, beginning with the last; the rest stays on the CPU.

In: devices (`gpus.Gpu`), what the model needs (`Needs`), the user's wishes (`Wishes`). Out: a layout, a tuple of
`DeviceLayers` (a device and its layers) in the order of the layers. `create_layout` computes one from what is known.
`settle` tries layouts with an `attempt`, which finds out the real needs, until one fits. The rules are Ollama's: the
last layer is the output, which is left out first; few devices are preferred to many.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from ..errors import OutOfMemory
from .gpus import Gpu, by_library, by_performance, minimum_memory, sorted_for_layout

OVERCOMMIT = 1000  # times a device's memory that may be assigned if the user insists on a number of layers
BACKOFF_STEP = 0.1  # share of free memory given up each time that a layout which should fit does not
LAST_BACKOFF = 1.0


class NeedsAllLayers(OutOfMemory):
    """The whole model should go to devices but does not fit: another one must be unloaded first."""

    def __init__(self):
        super().__init__("unable to load full model on GPU")


@dataclass(frozen=True)
class DeviceLayers:
    """A device and its layers, in ascending order."""

    library: str
    id: str
    layers: tuple[int, ...]

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the device: (library, id)."""
        return self.library, self.id


Layout = tuple[DeviceLayers, ...]


@dataclass(frozen=True)
class Needs:
    """Sizes in bytes. layers: weights and cache of each layer, the output last. graphs: intermediates by device key;
    other devices are not used. input_weights, cpu_graph: always on the CPU.
    """

    layers: tuple[int, ...]
    graphs: dict[tuple[str, str], int] = field(default_factory=dict)
    input_weights: int = 0
    cpu_graph: int = 0


@dataclass(frozen=True)
class Wishes:
    """num_gpu: layers on devices; negative means automatic. require_full: all of them, or an error. spread: use all
    devices, even if fewer are enough. overhead: bytes of each device to leave free. host_free, host_swap: bytes of the
    host's memory that can be used.
    """

    num_gpu: int = -1
    require_full: bool = False
    spread: bool = False
    overhead: int = 0
    host_free: int = 0
    host_swap: int = 0


class Stage(Enum):
    """How far an attempt goes: only count, allocate, or keep the memory."""

    FIT = "fit"
    ALLOC = "alloc"
    COMMIT = "commit"


@dataclass(frozen=True)
class Outcome:
    """The result of an attempt: whether there was room, and the needs as far as they are known."""

    success: bool
    needs: Needs


Attempt = Callable[[Stage, Layout], Outcome]


def num_layers(layout: Layout) -> int:
    """The number of layers that a layout puts on devices."""
    return sum(len(part.layers) for part in layout)


def sizes(layout: Layout, needs: Needs) -> tuple[int, int]:
    """(total bytes, bytes on devices). If every layer is on a device, all bytes count as there: what is always on the
    CPU does not mean that it computes.
    """
    graphs = sum(needs.graphs.get(part.key, 0) for part in layout)
    on_devices = graphs + sum(needs.layers[layer] for part in layout for layer in part.layers)
    total = sum(needs.layers) + graphs + needs.input_weights + needs.cpu_graph
    return total, total if num_layers(layout) == len(needs.layers) else on_devices


def create_layout(gpus: Sequence[Gpu], needs: Needs, wishes: Wishes, backoff: float | np.float32 = 0.0) -> Layout:
    """The layout with the most layers on devices of one library.

    backoff: share of free memory not to use. Raises NeedsAllLayers (with `require_full`), OutOfMemory if the rest does
    not fit the host.
    """
    best: Layout = ()
    for group in by_library(sorted_for_layout(gpus)):
        last_used = max((at for at, gpu in enumerate(group) if needs.graphs.get(gpu.key)), default=0)
        room = [replace(gpu, free=_room(gpu, needs, wishes, backoff)) for gpu in group]
        found = _assign(list(needs.layers), room, wishes, last_used)
        if num_layers(found) > num_layers(best):
            best = found
    _check(best, needs, wishes)
    return best


def _room(gpu: Gpu, needs: Needs, wishes: Wishes, backoff: float | np.float32) -> int:
    """Bytes of a device that layers can use."""
    if gpu.key not in needs.graphs:
        return 0
    unsure = int(np.float32(gpu.free) * np.float32(backoff))
    kept = 0 if gpu.is_software else minimum_memory(gpu.library)  # a software driver keeps nothing on a device
    return max(0, gpu.free - unsure - kept - wishes.overhead - needs.graphs[gpu.key])


def _check(layout: Layout, needs: Needs, wishes: Wishes) -> None:
    placed = {layer for part in layout for layer in part.layers}
    on_host = (
        needs.input_weights
        + needs.cpu_graph
        + sum(size for layer, size in enumerate(needs.layers) if layer not in placed)
    )
    if wishes.require_full:
        wanted = len(needs.layers) if wishes.num_gpu < 0 else min(wishes.num_gpu, len(needs.layers))
        if len(placed) < wanted or on_host > wishes.host_free:
            raise NeedsAllLayers()
    available = wishes.host_free + wishes.host_swap
    if on_host > available:
        raise more_system_memory(on_host, available)


def more_system_memory(needed: int, available: int) -> OutOfMemory:
    """The error for a model that the host's memory does not hold, in Ollama's words. Sizes in bytes."""
    return OutOfMemory(
        f"model requires more system memory ({_binary(needed)}) than is available ({_binary(available)})"
    )


def _assign(layers: list[int], gpus: list[Gpu], wishes: Wishes, last_used: int) -> Layout:
    """Use as few devices as possible, but all up to `last_used`. If not all layers fit, the output is left out first:
    it is the largest layer and gains the least.
    """
    wanted = min(len(layers), wishes.num_gpu)
    if wanted >= 0 or wishes.spread:  # then all devices are treated alike
        gpus = [replace(gpu, is_integrated=False) for gpu in gpus]
    found: Layout = ()
    for left_out in range(2):
        here = layers[: len(layers) - left_out]
        wanted = min(len(here), wanted)
        for count in [len(gpus)] if wishes.spread else range(last_used + 1, len(gpus) + 1):
            found = _best_fit(here, gpus[:count], wanted, insist=count == len(gpus) and not wishes.require_full)
            if num_layers(found) in (len(here), wanted):
                break
        if num_layers(found) == len(here):
            return found
    return found


def _best_fit(layers: list[int], gpus: list[Gpu], wanted: int, insist: bool) -> Layout:
    """The most layers that fit, spread evenly: with the smallest share of each device's memory that holds as many."""
    found: Layout = ()
    for group in by_performance(gpus):
        low, high = np.float32(0), np.float32(OVERCOMMIT if wanted >= 0 and insist else 1)
        best = _greedy_fit(layers, group, high, wanted)
        most = num_layers(best)
        while high - low > np.float32(1e-6):
            middle = (low + high) / np.float32(2)
            if middle in (low, high):  # adjacent floats
                break
            trial = _greedy_fit(layers, group, middle, wanted)
            if num_layers(trial) == most:
                high, best = middle, trial
            else:
                low = middle
        layers, wanted = layers[: len(layers) - most], wanted - most
        found = best + found
    return found


def _greedy_fit(layers: list[int], gpus: list[Gpu], share: np.float32, wanted: int) -> Layout:
    """Assign layers from the last one and the last device backwards, on to the next device when one is full. Negative
    `wanted`: all that fit.
    """
    taken: list[list[int]] = [[]]
    free = int(np.float32(gpus[-1].free) * share)
    for layer in range(len(layers) - 1, -1, -1):
        if 0 <= wanted <= len(layers) - 1 - layer:
            break
        while layers[layer] > free:
            if len(taken) == len(gpus):
                return _parts(gpus, taken)
            free = int(np.float32(gpus[-len(taken) - 1].free) * share)
            taken.append([])
        taken[-1].append(layer)
        free -= layers[layer]
    return _parts(gpus, taken)


def _parts(gpus: list[Gpu], taken: list[list[int]]) -> Layout:
    """taken: descending layers of the last device, of the one before it, and so on."""
    return tuple(
        DeviceLayers(gpu.library, gpu.id, tuple(reversed(layers)))
        for gpu, layers in zip(gpus[len(gpus) - len(taken) :], reversed(taken))
    )


def settle(gpus: Sequence[Gpu], count: int, attempt: Attempt, wishes: Wishes) -> tuple[Layout, Outcome]:
    """A layout for `count` layers that `attempt` could commit, and its outcome. The needs are unknown before the first
    attempt.

    Raises what `create_layout` raises, and OutOfMemory if no layout fits.
    """
    layout = create_layout(gpus, Needs((0,) * count), wishes)
    search = _Search(gpus, attempt, wishes)
    for stage in (Stage.FIT, Stage.ALLOC):
        layout = search.run(stage, layout)
    outcome = attempt(Stage.COMMIT, layout)
    if not outcome.success:
        raise OutOfMemory("failed to commit memory for model")
    return layout, outcome


class _Search:
    """Tries layouts until the needs lead to one that was tried before."""

    def __init__(self, gpus: Sequence[Gpu], attempt: Attempt, wishes: Wishes):
        self.gpus = gpus
        self.attempt = attempt
        self.wishes = wishes
        self.tried: set[Layout] = set()
        self.backoff = np.float32(0)

    def run(self, stage: Stage, layout: Layout) -> Layout:
        while True:
            outcome = self.attempt(stage, layout)
            self.tried.add(layout)
            following = self._following(stage, layout, outcome)
            if following is None:
                return layout
            layout, is_final = following
            if is_final:
                return layout

    def _following(self, stage: Stage, layout: Layout, outcome: Outcome) -> tuple[Layout, bool] | None:
        """The next layout, and whether it was already tried successfully; None to keep `layout`."""
        needs, success = outcome.needs, outcome.success
        while True:
            proposed = create_layout(self.gpus, needs, self.wishes, self.backoff)
            # Each attempt finds out about more needs, never about fewer, so fewer layers are progress.
            if proposed not in self.tried and num_layers(proposed) <= num_layers(layout):
                return proposed, False
            if self.wishes.num_gpu < 0 and num_layers(proposed) - num_layers(layout) > 1:
                between, success = self._between(stage, layout, proposed, needs)
                if between is not None:
                    return between, True
            if success:
                return None
            if self.wishes.num_gpu >= 0:
                raise OutOfMemory(f"memory layout cannot be allocated with num_gpu = {self.wishes.num_gpu}")
            if self.backoff > LAST_BACKOFF:
                raise OutOfMemory("memory layout cannot be allocated")
            self.backoff += np.float32(BACKOFF_STEP)

    def _between(self, stage: Stage, few: Layout, many: Layout, needs: Needs) -> tuple[Layout | None, bool]:
        """For two layouts that lead to each other, because intermediates move with the layers: a layout with a number
        of layers between theirs that fits, or None; and whether there was room for the last one tried.
        """
        success = False
        for count in range(num_layers(many) - 1, num_layers(few) - 1, -1):
            trial = create_layout(self.gpus, needs, replace(self.wishes, num_gpu=count), self.backoff)
            outcome = self.attempt(stage, trial)
            success = outcome.success
            if success and num_layers(trial) <= num_layers(
                create_layout(self.gpus, outcome.needs, self.wishes, self.backoff)
            ):
                self.tried.clear()  # the number of layers rose, and must be able to fall again
                return trial, True
        return None, success


def _binary(count: int) -> str:
    """A size in binary units, with one decimal: 1.5 GiB."""
    for scale, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
