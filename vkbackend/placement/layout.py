"""Which layers of a model go to which device: as many as fit, the last ones first; what is left stays on the CPU.

In: devices (`gpus.Gpu`), what the model needs (`Needs`), the user's wishes (`Wishes`). Out: a layout: `Part`s,
devices with the layers they get, in the order of the layers. `create_layout` finds one from what is known; `settle`
tries layouts on whoever can load (`attempt`), which learns the true needs, until one holds. Ollama's rules: the last
layer is the output, which is left out first; few devices are preferred to many.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from ..errors import OutOfMemory
from .gpus import Gpu, by_library, by_performance, minimum_memory, sorted_for_layout

PRETEND = 1000  # times the memory that a device has: for a number of layers that the user insists on
LAST_BACKOFF = 1.0
BACKOFF_STEP = 0.1  # of the free memory, given up each time that a layout which should fit does not


class NeedsAllLayers(OutOfMemory):
    """The whole model was to go to devices, and does not fit: somebody must give way first."""

    def __init__(self):
        super().__init__("unable to load full model on GPU")


@dataclass(frozen=True)
class Part:
    """A device and the layers that it gets, ascending."""

    library: str
    id: str
    layers: tuple[int, ...]

    @property
    def key(self) -> tuple[str, str]:
        return self.library, self.id


Layout = tuple[Part, ...]


@dataclass(frozen=True)
class Needs:
    """Bytes. layers: of weights and cache of each, the output last. graphs: of intermediates, by device key; only
    devices in it are used. input_weights, cpu_graph: what the CPU holds in any case.
    """

    layers: tuple[int, ...]
    graphs: dict[tuple[str, str], int] = field(default_factory=dict)
    input_weights: int = 0
    cpu_graph: int = 0


@dataclass(frozen=True)
class Wishes:
    """num_gpu: layers on devices, negative leaves it to us. require_full: all of them or an error. spread: over all
    devices, whatever fits. overhead: bytes of each device that stay free. host_free, host_swap: bytes of the host's
    memory that may be taken.
    """

    num_gpu: int = -1
    require_full: bool = False
    spread: bool = False
    overhead: int = 0
    host_free: int = 0
    host_swap: int = 0


class Stage(Enum):
    """How far an attempt goes: count, allocate, or keep."""

    FIT = "fit"
    ALLOC = "alloc"
    COMMIT = "commit"


@dataclass(frozen=True)
class Outcome:
    """What an attempt says: whether there was room, and what is needed as far as it is known by now."""

    success: bool
    needs: Needs


Attempt = Callable[[Stage, Layout], Outcome]


def num_layers(layout: Layout) -> int:
    return sum(len(part.layers) for part in layout)


def sizes(layout: Layout, needs: Needs) -> tuple[int, int]:
    """-> (bytes in all, and of them on devices). A model whose every layer is on a device counts as there
    altogether: what the CPU keeps in any case is no sign that it computes.
    """
    graphs = sum(needs.graphs.get(part.key, 0) for part in layout)
    on_devices = graphs + sum(needs.layers[layer] for part in layout for layer in part.layers)
    total = sum(needs.layers) + graphs + needs.input_weights + needs.cpu_graph
    return total, total if num_layers(layout) == len(needs.layers) else on_devices


def create_layout(gpus: Sequence[Gpu], needs: Needs, wishes: Wishes, backoff: float = 0.0) -> Layout:
    """backoff: share of the free memory that is not to be relied on. Of several libraries, the one that takes more
    layers.

    Raises NeedsAllLayers where `require_full` does, OutOfMemory where what is left does not fit the host.
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


def _room(gpu: Gpu, needs: Needs, wishes: Wishes, backoff: float) -> int:
    """Bytes for layers."""
    if gpu.key not in needs.graphs:
        return 0
    unsure = int(np.float32(gpu.free) * np.float32(backoff))
    kept = (
        0 if gpu.is_software else minimum_memory(gpu.library)
    )  # what a driver on the host's CPU keeps is not the device's
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
        raise OutOfMemory(
            f"model requires more system memory ({_binary(on_host)}) than is available ({_binary(available)})"
        )


def _assign(layers: list[int], gpus: list[Gpu], wishes: Wishes, last_used: int) -> Layout:
    """On as few of the devices as can be, those up to `last_used` in any case. Where not all layers fit, without the
    output: it is the largest and gains the least.
    """
    wanted = min(len(layers), wishes.num_gpu)
    if wanted >= 0 or wishes.spread:
        gpus = [
            replace(gpu, is_integrated=False) for gpu in gpus
        ]  # who says how many layers wants all devices treated alike
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
    """The most layers that fit, evenly: with the smallest share of each device's memory that still holds as many."""
    found: Layout = ()
    for group in by_performance(gpus):
        low, high = np.float32(0), np.float32(PRETEND if wanted >= 0 and insist else 1)
        best = _greedy_fit(layers, group, high, wanted)
        most = num_layers(best)
        while high - low > np.float32(1e-6):
            middle = (low + high) / np.float32(2)
            if middle in (low, high):  # neighbours: nothing lies between
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
    """From the last layer and the last device on: the next device where one is full. Negative `wanted`: all that
    fit.
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
    """taken: layers of the last device, the one before it, ..., each descending."""
    return tuple(
        Part(gpu.library, gpu.id, tuple(reversed(layers)))
        for gpu, layers in zip(gpus[len(gpus) - len(taken) :], reversed(taken))
    )


def settle(gpus: Sequence[Gpu], count: int, attempt: Attempt, wishes: Wishes) -> tuple[Layout, Outcome]:
    """A layout for `count` layers that `attempt` could commit, and what it said then. Nothing is known of the needs
    before the first attempt.

    Raises what `create_layout` raises, and OutOfMemory where no layout holds.
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
    """Tries layouts until one is proposed twice: then it is what the needs lead to."""

    def __init__(self, gpus, attempt: Attempt, wishes: Wishes):
        self.gpus, self.attempt, self.wishes = gpus, attempt, wishes
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
        """The layout to try next and whether that was done already; None where `layout` is to stay."""
        needs, success = outcome.needs, outcome.success
        while True:
            proposed = create_layout(self.gpus, needs, self.wishes, self.backoff)
            # More is known with each attempt, and all of it is more need: so fewer layers are progress.
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
        """Two layouts that lead to each other, since intermediates move with the layers: one with a number of layers
        between them that holds, and whether the last one tried had room.
        """
        success = False
        for count in range(num_layers(many) - 1, num_layers(few) - 1, -1):
            trial = create_layout(self.gpus, needs, replace(self.wishes, num_gpu=count), self.backoff)
            outcome = self.attempt(stage, trial)
            success = outcome.success
            if success and num_layers(trial) <= num_layers(
                create_layout(self.gpus, outcome.needs, self.wishes, self.backoff)
            ):
                self.tried.clear()  # this went up; coming down again must be possible
                return trial, True
        return None, success


def _binary(count: int) -> str:
    """Binary units with one decimal: 1.5 GiB."""
    for scale, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
