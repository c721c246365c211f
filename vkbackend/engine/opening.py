"""A GGUF file -> a running engine on the device that the environment asks for. What the server's loader and scripts call."""

import gc
import logging
import time
from dataclasses import dataclass
from typing import Callable

from .. import settings
from ..device import selection
from ..errors import DeviceError
from ..models import load
from ..tokenizer import Tokenizer
from .engine import Engine
from .runner import ModelRunner

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedEngine:
    """size, size_vram: bytes of memory, and of it on a device. `close` ends the engine's thread and frees everything; it may block."""

    engine: Engine
    tokenizer: Tokenizer
    gguf: object
    size: int
    size_vram: int
    context_length: int
    device_name: str
    close: Callable[[], None]


def open_engine(path, *, context_length: int | None = None, num_parallel: int | None = None, num_gpu: int = -1) -> OpenedEngine:
    """Load a model. context_length: of one sequence, at most what the model was trained for; num_gpu 0 runs it on the CPU.

    Raises GGUFError, UnsupportedModel, TokenizerError, OutOfMemory, DeviceError.
    """
    begin = time.monotonic()
    device = None if num_gpu == 0 else selection.current()
    try:
        model = load(path, device)
        trained, wanted = model.config.context_length, context_length or settings.get("OLLAMA_CONTEXT_LENGTH")
        if wanted > trained:
            log.warning("a context of %d tokens was asked for; %s was trained for %d, which is used", wanted, path, trained)
        runner = ModelRunner(model, context_length=min(wanted, trained), max_sequences=num_parallel or settings.get("OLLAMA_NUM_PARALLEL"),
                             kv_type=settings.get("OLLAMA_KV_CACHE_TYPE"))
        tokenizer = Tokenizer.from_gguf(model.gguf)
    except DeviceError:
        selection.forget()  # a lost device stays lost; the next load opens it anew
        raise
    engine = Engine(runner, tokenizer)
    name = device.info.name if device else "CPU"
    log.info("loaded %s (%s, %.0f MiB) on %s in %.2f s", path, model.architecture, runner.num_bytes / 2**20, name, time.monotonic() - begin)

    def close():
        failure = engine.failure
        engine.close()
        if device is not None:
            device.kernels.save()
        runner.release()
        gc.collect()
        if isinstance(failure, DeviceError):
            selection.forget()

    return OpenedEngine(engine, tokenizer, model.gguf, runner.num_bytes, runner.num_bytes if device else 0, runner.context_length, name, close)
