"""Opens a GGUF file as a running engine, on the devices that the settings select. Used by the server and by scripts."""

import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from .. import settings
from ..device import selection
from ..device.host_memory import trim
from ..engine.engine import Engine
from ..errors import DeviceError, VkbackendError
from ..gguf.reader import GGUFFile
from ..loading import read
from ..progress import LoadProgress
from ..tokenizer import Tokenizer
from . import placing
from .memory_plan import MemoryPlan
from .settling import Request

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedEngine:
    """A loaded model with its engine and tokenizer.

    size, size_vram: bytes of the model with its cache in total, and on devices. placement: (device name or CPU,
    number of layers) in the order of the layers, the output last. close: stops the engine's thread and frees
    everything; may block.
    """

    engine: Engine
    tokenizer: Tokenizer
    gguf: GGUFFile
    size: int
    size_vram: int
    context_length: int
    placement: tuple[tuple[str, int], ...]
    close: Callable[[], None]

    @property
    def device_name(self) -> str:
        """Names of the devices in the order of the layers, each once, joined by " and "."""
        return " and ".join(dict.fromkeys(where for where, _ in self.placement))


def open_engine(
    path: str | Path,
    *,
    adapters: Sequence[str | Path] = (),
    context_length: int | None = None,
    num_parallel: int | None = None,
    num_gpu: int = -1,
    main_gpu: int = 0,
    num_threads: int = 0,
    whole: bool = False,
    progress: LoadProgress | None = None,
) -> OpenedEngine:
    """Load a model and start its engine.

    adapters: GGUF files of adapters that change the model. context_length: of one sequence, limited to what the model
    was trained with. num_gpu: layers on devices; 0 runs the model on the CPU, negative means automatic. main_gpu: index
    of the device to use if it holds the whole model. num_threads: of the CPU path; 0 or less means automatic. whole:
    put all layers on devices (if there are any), or raise OutOfMemory. progress: is updated during the load.

    Raises GGUFError, UnsupportedModel, TokenizerError, RequestError, OutOfMemory, DeviceError.
    """
    begin = time.monotonic()
    request = _request(path, adapters, context_length, num_parallel, num_gpu, main_gpu)
    file = request.file
    try:
        placed = placing.place(replace(request, num_threads=num_threads, whole=whole, progress=progress))
        tokenizer = Tokenizer.from_gguf(file.gguf)
        engine = Engine(placed.runner, tokenizer)
    except VkbackendError:
        _collect_garbage()
        raise
    _log_loaded(path, file.architecture, placed, time.monotonic() - begin)

    return OpenedEngine(
        engine=engine,
        tokenizer=tokenizer,
        gguf=file.gguf,
        size=placed.size,
        size_vram=placed.size_vram,
        context_length=placed.runner.context_length,
        placement=placed.placement,
        close=partial(_close, engine, placed),
    )


def plan_engine(
    path: str | Path,
    *,
    adapters: Sequence[str | Path] = (),
    context_length: int | None = None,
    num_gpu: int = -1,
    main_gpu: int = 0,
    held: int = 0,
) -> MemoryPlan:
    """The memory that `open_engine` with these arguments would take now. Nothing is loaded. held: bytes that count as
    free, on the host and on each device.

    Raises GGUFError, UnsupportedModel, RequestError.
    """
    plan = placing.plan(replace(_request(path, adapters, context_length, None, num_gpu, main_gpu), held=held))
    _collect_garbage()
    return plan


def _request(
    path: str | Path,
    adapters: Sequence[str | Path],
    context_length: int | None,
    num_parallel: int | None,
    num_gpu: int,
    main_gpu: int,
) -> Request:
    """What to load, as `open_engine` is asked. Raises GGUFError, UnsupportedModel."""
    file = read(path, adapters)
    trained = file.config.context_length
    wanted = context_length or settings.get("OLLAMA_CONTEXT_LENGTH")
    if wanted > trained:
        log.warning("%s was trained with a context of %d tokens, not %d; using %d", path, trained, wanted, trained)
    return Request(
        file=file,
        context_length=min(wanted, trained),
        max_sequences=num_parallel or settings.get("OLLAMA_NUM_PARALLEL"),
        kv_type=settings.get("OLLAMA_KV_CACHE_TYPE"),
        num_gpu=num_gpu,
        main_gpu=main_gpu,
    )


def _collect_garbage() -> None:
    """Free the graphs whose memory was counted. Their values refer to each other, so they would stay until some later
    collection.
    """
    gc.collect()
    trim()


def _log_loaded(path: str | Path, architecture: str, placed: placing.Placed, seconds: float) -> None:
    places = [f"{count} {'layer' if count == 1 else 'layers'} on {where}" for where, count in placed.placement]
    log.info(
        "loaded %s (%s, %.0f MiB): %s, in %.2f s",
        path,
        architecture,
        placed.runner.num_bytes / 2**20,
        ", ".join(places),
        seconds,
    )


def _close(engine: Engine, placed: placing.Placed) -> None:
    failure = engine.failure
    engine.close()
    for device in placed.devices:
        device.kernels.save()
    placed.runner.release()
    gc.collect()
    if isinstance(failure, DeviceError):
        for device in placed.devices:
            selection.forget(device)
