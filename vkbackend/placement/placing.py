"""Loads a model onto the devices of this machine, or says what it would take there.

In: a `ModelFile` and what the user wants (`Request`). Out: a loaded model with its runner (`Placed`), or a
`MemoryPlan`. Both choose places in the same way (`settling.py`).
"""

from dataclasses import dataclass, replace

from ..device import selection
from ..device.context import Device
from ..engine.runner import ModelRunner
from ..errors import DeviceError, OutOfMemory
from ..loading import load, load_parts
from . import layout as layouts
from .gpus import usable
from .layout import Layout
from .memory_plan import MemoryPlan
from .settling import Request, Settling


@dataclass
class Placed:
    """A loaded model. placement: (place, number of layers) in the order of the layers. devices: the ones it uses.

    size, size_vram: bytes in total and on devices. For a model in several places, the CPU's part counts with its size
    in the file, not dequantized, so that the shares tell how much of the model runs where.
    """

    runner: ModelRunner
    placement: tuple[tuple[str, int], ...]
    devices: list[Device]
    size: int
    size_vram: int


class _CannotOpen(DeviceError):
    """A device of the layout cannot be opened. Others may work."""

    def __init__(self, gpu_id: str, error: DeviceError):
        super().__init__(str(error))
        self.gpu_id = gpu_id


def place(request: Request) -> Placed:
    """Load a model. Raises OutOfMemory (NeedsAllLayers if `whole` is impossible), RequestError, UnsupportedModel,
    DeviceError.
    """
    gpus = [] if request.num_gpu == 0 else usable()
    while True:
        try:
            return _Loading(request, gpus).run()
        except _CannotOpen as error:
            gpus = [gpu for gpu in gpus if gpu.id != error.gpu_id]


def plan(request: Request) -> MemoryPlan:
    """What a model would take on the devices of this machine, without loading it: in the places where `place` would
    put it now, or, if it fits nowhere, in those that were tried last. `request.held` counts as free on devices, too.

    Raises RequestError, UnsupportedModel.
    """
    gpus = [] if request.num_gpu == 0 else usable()
    if request.held:
        gpus = [replace(gpu, free=max(gpu.free, min(gpu.total, gpu.free + request.held))) for gpu in gpus]
    planning = _Planning(request, gpus)
    try:
        return planning.run()
    except OutOfMemory as error:
        return replace(planning.last or planning.plan(()), problem=str(error))


class _Planning(Settling[MemoryPlan]):
    """Takes nothing. last: the plan that was made last."""

    last: MemoryPlan | None = None

    def take(self, found: Layout) -> MemoryPlan:
        self.last = self.plan(found)
        self.check(self.last)
        return self.last


class _Loading(Settling[Placed]):
    def take(self, found: Layout) -> Placed:
        places = self.places(found)
        plan = self.plan(found)
        self.check(plan)
        ids = dict.fromkeys(gpu_id for _, _, gpu_id in places if gpu_id is not None)
        devices = {gpu_id: self._opened(gpu_id) for gpu_id in ids}
        try:
            runner = self._loaded(found, plan, devices)
        except DeviceError:
            for device in devices.values():
                selection.forget(device)  # a lost device stays lost; the next load opens it again
            raise
        placement = tuple((self.place_name(gpu_id), last - first) for first, last, gpu_id in places)
        if len(places) == 1:
            size, size_vram = runner.num_bytes, runner.num_bytes if devices else 0
        else:
            size, size_vram = layouts.sizes(found, self.sizes.needs(found, [gpu.key for gpu in self.gpus]))
        return Placed(runner, placement, list(devices.values()), size, size_vram)

    def _loaded(self, found: Layout, plan: MemoryPlan, devices: dict[str, Device]) -> ModelRunner:
        request = self.request
        where = [None if gpu_id is None else devices[gpu_id] for _, _, gpu_id in self.places(found)]
        if len(where) == 1:
            model = load(request.file, where[0], request.progress, plan.copy_budget)
        else:
            parts = list(zip(self.spans(found), where))
            model = load_parts(request.file, parts, request.progress, plan.copy_budget)
        return ModelRunner(
            model,
            context_length=request.context_length,
            max_sequences=request.max_sequences,
            kv_type=self.kv_kind,
            layout=plan.layout,
            num_threads=request.num_threads,
        )

    def _opened(self, gpu_id: str) -> Device:
        try:
            return selection.opened(gpu_id)
        except DeviceError as error:
            raise _CannotOpen(gpu_id, error) from error
