"""Loads a model onto the devices of this machine.

In: a `ModelFile` and what the user wants (`Request`). Out: a loaded model with its runner (`Placed`). The rules are in
`layout.py`; this module provides their attempts, which compute how much memory the layers need and then load them. If
they do not fit after all, fewer layers are tried. The log says what was decided, and why.
"""

import gc
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from .. import settings
from ..device import selection
from ..device.context import Device
from ..device.host_memory import available_host_memory, free_swap
from ..engine.runner import MAX_OUTPUTS, PAGE_SIZE, PREFILL_CHUNK, ModelRunner
from ..errors import DeviceError, OutOfMemory, RequestError
from ..graph.parts import LayerSpan
from ..loading import SHARE_FOR_WEIGHTS, ModelFile, load, load_parts
from ..models.weights import loaded_tensors
from ..progress import LoadProgress
from . import layout as layouts
from .gpus import Gpu, usable
from .layout import Layout, NeedsAllLayers, Outcome, Stage, Wishes
from .needs import CACHE_BYTES, Sizes

log = logging.getLogger(__name__)

MIB = 1 << 20
CPU = "CPU"

Place = tuple[int, int, str | None]  # first layer, last layer + 1, id of a device or None for the CPU


@dataclass(frozen=True)
class Request:
    """What to load and how.

    context_length: of one sequence. num_gpu: layers on devices, the output included; negative means automatic.
    main_gpu: index of the device to use if it holds the whole model; 0, the default, means automatic. whole: all layers
    on devices, or OutOfMemory.
    """

    file: ModelFile
    context_length: int
    max_sequences: int
    kv_type: str
    num_gpu: int = -1
    main_gpu: int = 0
    whole: bool = False
    progress: LoadProgress | None = None

    @property
    def element_bytes(self) -> float:
        """Bytes of a cache element, including scales."""
        return CACHE_BYTES[self.kv_type] * (1.125 if self.kv_type.startswith("q") else 1)

    @property
    def pages(self) -> int:
        """Pages of the cache for one sequence."""
        return -(-self.context_length // PAGE_SIZE)


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
            return _Placing(request, gpus).run()
        except _CannotOpen as error:
            gpus = [gpu for gpu in gpus if gpu.id != error.gpu_id]


class _Placing:
    def __init__(self, request: Request, gpus: list[Gpu]):
        self.request = request
        self.gpus = gpus
        self.names = _names(gpus)
        self.count = request.file.config.num_layers + 1
        self.placed: tuple[Layout, Placed] | None = None

    def run(self) -> Placed:
        if not self.gpus:
            self._check_room_for_speed()
            return self._load((), self.request.max_sequences)
        self._check_bindings()
        found = self._on_main_gpu() or self._settled(self.gpus)
        self._explain(found)
        assert self.placed is not None  # a layout that was settled is loaded
        return self.placed[1]

    def _check_room_for_speed(self) -> None:
        """Raises OutOfMemory if `whole` and there is no room for all weights in f32: unloading another model is better
        than dequantizing weights for each token.
        """
        if self.request.whole:
            wanted = sum(4 * math.prod(info.shape) for info in loaded_tensors(self.request.file.gguf).values())
            free = int(available_host_memory() * SHARE_FOR_WEIGHTS)
            if wanted > free:
                raise OutOfMemory(
                    f"{self._name} needs {wanted // MIB} MiB on the CPU, where {free // MIB} MiB are available"
                )

    def _on_main_gpu(self) -> Layout | None:
        """A layout with the whole model on the device `main_gpu`; None if it does not fit or was not asked for."""
        number = self.request.main_gpu
        if not number or settings.get("OLLAMA_SCHED_SPREAD"):
            return None
        named = [gpu for gpu in self.gpus if gpu.index == number]
        if not named:
            log.warning(
                "ignoring main_gpu = %d: there are the devices %s",
                number,
                ", ".join(str(gpu.index) for gpu in self.gpus),
            )
            return None
        try:
            return self._settled(named, require_full=True)
        except NeedsAllLayers:
            log.info(
                "%s (main_gpu = %d) has no room for all of %s; using other devices too",
                named[0].name,
                number,
                self._name,
            )
            return None

    def _settled(self, gpus: list[Gpu], require_full: bool = False) -> Layout:
        """A layout with a cache for all sequences, or for a single one if that puts more layers on devices."""
        request = self.request
        wishes = Wishes(
            request.num_gpu,
            require_full or request.whole,
            settings.get("OLLAMA_SCHED_SPREAD"),
            settings.get("OLLAMA_GPU_OVERHEAD"),
            available_host_memory(),
            free_swap(),
        )
        for num_sequences in dict.fromkeys((request.max_sequences, 1)):
            attempt = self._attempt(gpus, num_sequences, num_sequences == 1)
            try:
                return layouts.settle(gpus, self.count, attempt, wishes)[0]
            except _TryFewerSequences:
                continue
        raise AssertionError("the attempt with a single sequence never raises _TryFewerSequences")

    def _attempt(self, gpus: list[Gpu], num_sequences: int, is_last: bool) -> Callable[[Stage, Layout], Outcome]:
        request = self.request
        sizes = Sizes.of(
            request.file.gguf,
            request.file.config,
            cache_tokens=request.pages * num_sequences * PAGE_SIZE,
            cache_bytes=request.element_bytes,
            max_tokens=max(PREFILL_CHUNK, request.max_sequences),
            max_outputs=max(MAX_OUTPUTS, request.max_sequences),
        )
        self.sizes = sizes
        wanted = self.count if request.num_gpu < 0 else min(request.num_gpu, self.count)

        def attempt(stage: Stage, found: Layout) -> Outcome:
            needs = sizes.needs(found, [gpu.key for gpu in gpus])
            if stage is Stage.FIT:
                return Outcome(True, needs)
            if not is_last and layouts.num_layers(found) < wanted:
                raise _TryFewerSequences()
            return Outcome(self._holds(found, num_sequences), needs)

        return attempt

    def _holds(self, found: Layout, num_sequences: int) -> bool:
        """Load a layout. Returns whether it fits. It stays loaded until another layout is tried."""
        if self.placed is not None and self.placed[0] == found:
            return True
        self.placed = None
        gc.collect()
        try:
            self.placed = found, self._load(found, num_sequences)
        except OutOfMemory as error:
            if not layouts.num_layers(found):
                raise  # nothing left to fall back to after the CPU
            log.info("%s: %s", self._in_words(found), error)
            return False
        return True

    def _load(self, found: Layout, num_sequences: int) -> Placed:
        places = self._places(found)
        ids = dict.fromkeys(gpu_id for _, _, gpu_id in places if gpu_id is not None)
        devices = {gpu_id: self._opened(gpu_id) for gpu_id in ids}
        try:
            runner = self._loaded(places, devices, num_sequences)
        except DeviceError:
            for device in devices.values():
                selection.forget(device)  # a lost device stays lost; the next load opens it again
            raise
        placement = tuple((self._place_name(gpu_id), last - first) for first, last, gpu_id in places)
        if len(places) == 1:
            size, size_vram = runner.num_bytes, runner.num_bytes if devices else 0
        else:
            size, size_vram = layouts.sizes(found, self.sizes.needs(found, [gpu.key for gpu in self.gpus]))
        return Placed(runner, placement, list(devices.values()), size, size_vram)

    def _loaded(self, places: list[Place], devices: dict[str, Device], num_sequences: int) -> ModelRunner:
        request = self.request
        where = [None if gpu_id is None else devices[gpu_id] for _, _, gpu_id in places]
        if len(places) == 1:
            model = load(request.file, where[0], request.progress)
            num_pages = None  # the runner finds out how many there is room for
        else:
            is_tied = self.sizes.is_tied
            spans = [LayerSpan(first, last, self.count - 1, is_tied) for first, last, _ in places]
            model = load_parts(request.file, list(zip(spans, where)), request.progress)
            num_pages = request.pages * num_sequences
        return ModelRunner(
            model,
            context_length=request.context_length,
            max_sequences=request.max_sequences,
            kv_type=request.kv_type,
            num_pages=num_pages,
        )

    def _places(self, found: Layout) -> list[Place]:
        """All layers in order, consecutive ones on the same device as one place."""
        where = {layer: part.id for part in found for layer in part.layers}
        places: list[Place] = []
        for layer in range(self.count):
            if places and places[-1][2] == where.get(layer):
                places[-1] = (places[-1][0], layer + 1, places[-1][2])
            else:
                places.append((layer, layer + 1, where.get(layer)))
        return places

    def _opened(self, gpu_id: str) -> Device:
        try:
            return selection.opened(gpu_id)
        except DeviceError as error:
            raise _CannotOpen(gpu_id, error) from error

    def _check_bindings(self) -> None:
        """Raises RequestError if no device can bind the cache of a layer, whatever memory is free."""
        request, config = self.request, self.request.file.config
        tensor_bytes = int(request.pages * PAGE_SIZE * config.num_kv_heads * config.head_dim * request.element_bytes)
        able = [gpu for gpu in self.gpus if tensor_bytes <= gpu.largest_binding]
        if not able and request.num_gpu < 0:
            first = self.gpus[0]
            raise RequestError(
                f"the KV cache of one layer needs {tensor_bytes} bytes; {first.name} binds at most "
                f"{first.largest_binding}: use a smaller num_ctx (OLLAMA_CONTEXT_LENGTH)"
            )
        self.gpus = able

    # Texts for the log

    @property
    def _name(self) -> str:
        return str(self.request.file.path)

    def _explain(self, found: Layout) -> None:
        sizes, request = self.sizes, self.request
        room = "; ".join(f"{self.names[gpu.key]} has {gpu.free // MIB} MiB free" for gpu in self.gpus)
        log.info(
            "placing %s: %d layers and the output need %d MiB with a cache of %d tokens; %s",
            self._name,
            self.count - 1,
            sum(sizes.layers) // MIB,
            request.context_length,
            room,
        )
        whole = layouts.num_layers(found) == self.count
        log.log(
            logging.INFO if whole or request.num_gpu >= 0 else logging.WARNING,
            "%s%s",
            self._in_words(found),
            self._why(found),
        )

    def _in_words(self, found: Layout) -> str:
        return ", ".join(
            f"{f'layer {first}' if last - first == 1 else f'layers {first}-{last - 1}'} on {self._place_name(gpu_id)}"
            for first, last, gpu_id in self._places(found)
        )

    def _place_name(self, gpu_id: str | None) -> str:
        return CPU if gpu_id is None else self.names["Vulkan", gpu_id]

    def _why(self, found: Layout) -> str:
        if self.request.num_gpu >= 0:
            return f": num_gpu is {self.request.num_gpu}"
        if layouts.num_layers(found) == self.count:
            is_spread = len(found) > 1 and settings.get("OLLAMA_SCHED_SPREAD")
            return ": OLLAMA_SCHED_SPREAD is set" if is_spread else ": it fits"
        return ": as many as fit; layers on the CPU are slower. A smaller num_ctx or quantization needs less memory"


class _TryFewerSequences(Exception):
    """A cache for all sequences leaves too little room on devices for the wanted layers."""


def _names(gpus: list[Gpu]) -> dict[tuple[str, str], str]:
    """Names by key; equal names are made unique by the id."""
    names = [gpu.name for gpu in gpus]
    return {gpu.key: gpu.name if names.count(gpu.name) == 1 else f"{gpu.name} ({gpu.id[:8]})" for gpu in gpus}
