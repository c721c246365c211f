"""A GGUF file -> a running engine on the devices that the environment asks for. What the server's loader and scripts
call.
"""

import gc
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from .. import settings
from ..device import selection
from ..engine.engine import Engine
from ..errors import DeviceError
from ..models.load import read
from ..progress import LoadProgress
from ..tokenizer import Tokenizer
from . import placing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedEngine:
    """size, size_vram: bytes of the model with its cache, and of them on devices. placement: (device or CPU,
    layers), in the order of the layers, the output the last. `close` ends the engine's thread and frees everything;
    it may block.
    """

    engine: Engine
    tokenizer: Tokenizer
    gguf: object
    size: int
    size_vram: int
    context_length: int
    placement: tuple[tuple[str, int], ...]
    close: Callable[[], None]

    @property
    def device_name(self) -> str:
        return " and ".join(dict.fromkeys(where for where, _ in self.placement))


def open_engine(
    path,
    *,
    context_length: int | None = None,
    num_parallel: int | None = None,
    num_gpu: int = -1,
    main_gpu: int = 0,
    whole: bool = False,
    progress: LoadProgress | None = None,
) -> OpenedEngine:
    """Load a model. context_length: of one sequence, at most what the model was trained for; num_gpu: layers on
    devices, 0 runs it on the CPU; main_gpu: index of the device that comes first, where all fits there. whole: all
    layers on devices (where there are any), or OutOfMemory. progress: is told how far the load is.

    Raises GGUFError, UnsupportedModel, TokenizerError, RequestError, OutOfMemory, DeviceError.
    """
    begin = time.monotonic()
    file = read(path)
    trained, wanted = file.config.context_length, context_length or settings.get("OLLAMA_CONTEXT_LENGTH")
    if wanted > trained:
        log.warning("a context of %d tokens was asked for; %s was trained for %d, which is used", wanted, path, trained)
    placed = placing.place(
        placing.Request(
            file,
            min(wanted, trained),
            num_parallel or settings.get("OLLAMA_NUM_PARALLEL"),
            settings.get("OLLAMA_KV_CACHE_TYPE"),
            num_gpu,
            main_gpu,
            whole,
            progress,
        )
    )
    tokenizer = Tokenizer.from_gguf(file.gguf)
    runner, devices, placement = placed.runner, placed.devices, placed.placement
    engine = Engine(runner, tokenizer)
    name = ", ".join(f"{layers} {'layer' if layers == 1 else 'layers'} on {where}" for where, layers in placement)
    log.info(
        "loaded %s (%s, %.0f MiB): %s, in %.2f s",
        path,
        file.architecture,
        runner.num_bytes / 2**20,
        name,
        time.monotonic() - begin,
    )

    def close():
        failure = engine.failure
        engine.close()
        for device in devices:
            device.kernels.save()
        runner.release()
        gc.collect()
        if isinstance(failure, DeviceError):
            for device in devices:
                selection.forget(device)

    return OpenedEngine(
        engine, tokenizer, file.gguf, placed.size, placed.size_vram, runner.context_length, placement, close
    )
