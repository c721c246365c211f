"""Chooses the layers' places for one model on the devices of this machine.

In: a `Request` and devices. Out: what a subclass of `Settling` makes of a layout that fits. The rules are in
`layout.py`; this module provides their attempts, which compute how much memory the layers need and then take it. If
they do not fit after all, fewer layers are tried. The log says what was decided, and why.
"""

import gc
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from .. import settings
from ..device.host_memory import available_host_memory, free_swap
from ..engine.cache_room import log_fewer_pages
from ..engine.runner import PAGE_SIZE, step_limits
from ..errors import OutOfMemory, RequestError
from ..graph.cache_layout import CacheLayout, fitting_kind
from ..graph.parts import LayerSpan
from ..loading import ModelFile
from ..progress import LoadProgress
from . import layout as layouts
from .gpus import Gpu
from .layout import Layout, NeedsAllLayers, Outcome, Stage, Wishes
from .memory_plan import CPU, MemoryPlan, Place, plan_memory, with_held
from .needs import Sizes

log = logging.getLogger(__name__)

MIB = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What to load and how.

    context_length: of one sequence. num_gpu: layers on devices, the output included; negative means automatic.
    main_gpu: index of the device to use if it holds the whole model; 0, the default, means automatic. num_threads: of
    the CPU path; 0 or less means automatic. whole: all layers on devices, or OutOfMemory. held: bytes of the host's
    memory that count as free, because they would be if other models were unloaded.
    """

    file: ModelFile
    context_length: int
    max_sequences: int
    kv_type: str
    num_gpu: int = -1
    main_gpu: int = 0
    num_threads: int = 0
    whole: bool = False
    progress: LoadProgress | None = None
    held: int = 0


class Settling(ABC, Generic[T]):
    """Finds the places of a model's layers. `take` makes the result of a layout, or raises OutOfMemory."""

    def __init__(self, request: Request, gpus: list[Gpu]):
        config = request.file.config
        self.request = request
        self.gpus = gpus
        self.names = _names(gpus)
        self.count = config.num_layers + 1
        self.kv_kind = fitting_kind(request.kv_type, config.head_dim)
        self.limits = step_limits(config.vocab_size, request.context_length, request.max_sequences)
        self.taken: tuple[Layout, T] | None = None

    @abstractmethod
    def take(self, found: Layout) -> T:
        """Make the result of a layout. Raises OutOfMemory if it does not fit."""
        ...

    def run(self) -> T:
        """The result of the best layout. Raises OutOfMemory, RequestError, and what `take` raises."""
        if not self.gpus:
            return self.take(())
        self._check_bindings()
        found = self._on_main_gpu() or self._settled(self.gpus)
        self._explain(found)
        assert self.taken is not None  # a layout that was settled is taken
        return self.taken[1]

    def plan(self, found: Layout) -> MemoryPlan:
        """The memory of a layout."""
        gpus = {gpu.id: gpu for gpu in self.gpus}
        spans: dict[str | None, tuple[LayerSpan, ...]] = {}  # by the id of their device
        for span, (_, _, gpu_id) in zip(self.spans(found), self.places(found)):
            spans[gpu_id] = (*spans.get(gpu_id, ()), span)
        places = [Place(None if gpu_id is None else gpus[gpu_id], held) for gpu_id, held in spans.items()]
        request = self.request
        layout = self._cache_layout(request.max_sequences)
        memory = plan_memory(request.file, places, layout, self.limits, request.held)
        return replace(memory, context_length=request.context_length)

    def check(self, plan: MemoryPlan) -> None:
        """Raises OutOfMemory if a plan does not fit. Logs what the cache has less than wanted."""
        if plan.problem is not None:
            raise OutOfMemory(plan.problem)
        if self.request.whole and plan.copies_wanted > plan.copy_budget:
            # Unloading another model is better than dequantizing weights for each token.
            raise OutOfMemory(
                f"{self._name} needs {plan.copies_wanted // MIB} MiB on the CPU, where {plan.copy_budget // MIB} MiB "
                "are available"
            )
        log_fewer_pages(plan.layout, self._cache_layout(self.request.max_sequences), plan.rooms)

    def spans(self, found: Layout) -> list[LayerSpan]:
        """The layers of each place."""
        is_tied = "output.weight" not in self.request.file.gguf.tensors
        return [LayerSpan(first, last, self.count - 1, is_tied) for first, last, _ in self.places(found)]

    def _cache_layout(self, num_sequences: int) -> CacheLayout:
        return CacheLayout.of(
            self.request.file.config,
            context_length=self.request.context_length,
            num_sequences=num_sequences,
            kind=self.kv_kind,
            step_tokens=self.limits.max_tokens,
            page_size=PAGE_SIZE,
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
            with_held(available_host_memory(), request.held),
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
            request.file,
            layout=self._cache_layout(num_sequences),
            max_tokens=self.limits.max_tokens,
            max_outputs=self.limits.max_outputs,
        )
        self.sizes = sizes
        wanted = self.count if request.num_gpu < 0 else min(request.num_gpu, self.count)

        def attempt(stage: Stage, found: Layout) -> Outcome:
            needs = sizes.needs(found, [gpu.key for gpu in gpus])
            if stage is Stage.FIT:
                return Outcome(True, needs)
            if not is_last and layouts.num_layers(found) < wanted:
                raise _TryFewerSequences()
            return Outcome(self._holds(found), needs)

        return attempt

    def _holds(self, found: Layout) -> bool:
        """Take a layout. Returns whether it fits. Its result is kept until another layout is tried."""
        if self.taken is not None and self.taken[0] == found:
            return True
        self.taken = None
        gc.collect()
        try:
            self.taken = found, self.take(found)
        except OutOfMemory as error:
            if not layouts.num_layers(found):
                raise  # nothing left to fall back to after the CPU
            log.info("%s: %s", self._in_words(found), error)
            return False
        return True

    def places(self, found: Layout) -> list[tuple[int, int, str | None]]:
        """All layers in order, consecutive ones on the same device as one place: the first layer, the last one + 1, and
        the id of the device, or None for the CPU.
        """
        where = {layer: part.id for part in found for layer in part.layers}
        places: list[tuple[int, int, str | None]] = []
        for layer in range(self.count):
            if places and places[-1][2] == where.get(layer):
                places[-1] = (places[-1][0], layer + 1, places[-1][2])
            else:
                places.append((layer, layer + 1, where.get(layer)))
        return places

    def _check_bindings(self) -> None:
        """Raises RequestError if no device can bind the cache of a layer, whatever memory is free."""
        layout = self._cache_layout(1)
        tensor_bytes = max(layout.layer_bytes(layer) // 2 for layer in range(self.count - 1))
        able = [gpu for gpu in self.gpus if tensor_bytes <= gpu.largest_binding]
        if not able and self.request.num_gpu < 0:
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
            f"{f'layer {first}' if last - first == 1 else f'layers {first}-{last - 1}'} on {self.place_name(gpu_id)}"
            for first, last, gpu_id in self.places(found)
        )

    def place_name(self, gpu_id: str | None) -> str:
        """The name of a device, or of the CPU."""
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
