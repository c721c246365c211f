"""The models in memory: loaded on first use, kept for a while after the last, one at a time.

    async with loaded_models.acquire(stored, options, keep_alive) as model:
        model.engine.submit(...)

In: a stored model and the request's options. Out: a `LoadedModel`, which stays loaded for as long as the block lasts. A loader that
blocks runs in a thread; it is given in, so that nothing here knows devices or GGUF. All methods belong to one event loop.
"""

import asyncio
import gc
import logging
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Callable

from vkbackend import settings

from . import durations, go_json
from .errors import ApiError
from .messages import RunningModel
from .model_info import details
from .parameters import Options
from .store import StoredModel

log = logging.getLogger(__name__)

MIN_CONTEXT = 4  # Ollama's smallest num_ctx; less is raised to it
# A model is loaded again where one of these differs from the options it was loaded with.
LOAD_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
FIVE_MINUTES = 300 * durations.SECOND
STORED_PARTS = ("digest", "adapter_paths", "projector_paths")
BUSY = "server busy, please try again.  maximum pending requests exceeded"


@dataclass(frozen=True)
class LoadResult:
    """What a loader gives. size, size_vram: bytes of memory, and of it on devices; context_length: tokens of one sequence.

    `close` frees everything; it may block and is called once.
    """

    engine: Any
    tokenizer: Any
    gguf: Any
    size: int
    size_vram: int
    context_length: int
    close: Callable[[], None]


Loader = Callable[[StoredModel, Options], LoadResult]


class LoadedModel:
    """A model in memory. `load_seconds` is what loading took this time; `expires_at` in seconds since 1970."""

    def __init__(self, stored: StoredModel, options: Options, result: LoadResult, load_seconds: float):
        self.stored, self.options, self.load_seconds = stored, options, load_seconds
        self.engine, self.tokenizer, self.gguf = result.engine, result.tokenizer, result.gguf
        self.size, self.size_vram, self.context_length = result.size, result.size_vram, result.context_length
        self.num_users = 0
        self.keep_alive = durations.DEFAULT_KEEP_ALIVE  # nanoseconds after the last use; negative: for ever
        self.last_used = time.time()
        self.idle = asyncio.Event()
        self.idle.set()
        self._close = result.close
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stays(self) -> bool:
        return self.keep_alive < 0 or self.keep_alive >= durations.FOREVER

    def serves(self, stored: StoredModel, options: Options) -> bool:
        """Whether a request for this model with these options can use it as it is."""
        if self._close is None or getattr(self.engine, "failure", None) is not None:
            return False
        if any(getattr(self.stored, name, None) != getattr(stored, name, None) for name in STORED_PARTS):
            return False
        return all(getattr(self.options, name) == getattr(options, name) for name in LOAD_OPTIONS
                   if not (name == "num_gpu" and options.num_gpu < 0))  # -1 leaves it to us: as it is will do

    def start_timer(self, unload: Callable[["LoadedModel"], None]):
        self.stop_timer()
        if not self.stays:
            self._timer = asyncio.get_running_loop().call_later(self.keep_alive / durations.SECOND, unload, self)

    def stop_timer(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self):
        """Blocks. Lets go of everything: memory on a device is freed with the last object that holds it."""
        self._close()
        self.engine = self.tokenizer = self.gguf = self._close = None
        gc.collect()  # what is part of a cycle would stay until some later collection

    def describe(self) -> RunningModel:
        """For /api/ps."""
        expires = int(self.last_used * durations.SECOND) + (durations.FOREVER if self.stays else self.keep_alive)
        return RunningModel(self.stored.name, self.stored.name, self.size, self.stored.digest, details(self.stored),
                            go_json.rfc3339_nano(expires), self.size_vram, self.context_length)


class LoadedModels:
    """`store` is kept for the routes; `keep_alive` (nanoseconds) holds for requests that give none, OLLAMA_KEEP_ALIVE by default."""

    def __init__(self, store, loader: Loader, keep_alive: int | None = None, max_queue: int | None = None):
        self.store = store
        self._loader = loader
        self._keep_alive = default_keep_alive() if keep_alive is None else keep_alive
        self._max_queue = settings.get("OLLAMA_MAX_QUEUE") if max_queue is None else max_queue
        self._turn = asyncio.Lock()  # of the request that decides what is loaded; first come, first served
        self._num_waiting = 0
        self._current: LoadedModel | None = None
        self._changing: asyncio.Task | None = None  # a load or unload on its way; outlives the request that began it
        self._closed = False

    @asynccontextmanager
    async def acquire(self, stored: StoredModel, options: Options, keep_alive: int | None = None):
        """A context manager giving the LoadedModel. keep_alive in nanoseconds: 0 unloads after this use, negative never.

        Raises ApiError 503 where too many wait, and whatever the loader raises.
        """
        options.num_ctx = max(options.num_ctx, MIN_CONTEXT)
        model = await self._obtain(stored, options)
        model.keep_alive = self._keep_alive if keep_alive is None else keep_alive
        try:
            yield model
        finally:
            self._release(model)

    async def _obtain(self, stored, options):
        if self._num_waiting >= self._max_queue:
            raise ApiError(503, BUSY)
        self._num_waiting += 1
        try:
            async with self._turn:
                while True:
                    if self._closed:
                        raise ApiError(503, "the server is shutting down; send the request again when it is back")
                    await self._settled()
                    model = self._current
                    if model is None:
                        self._changing = asyncio.create_task(self._load(stored, options))
                        try:
                            await asyncio.shield(self._changing)
                        except asyncio.CancelledError:  # given up; the load goes on, for whoever comes next
                            self._changing.add_done_callback(self._rest_unused)
                            raise
                        model = self._current
                        if model is None:  # closed meanwhile
                            continue
                    elif not model.serves(stored, options):
                        await model.idle.wait()
                        self._begin_unload(model)
                        continue
                    model.stop_timer()
                    model.num_users += 1
                    model.idle.clear()
                    return model
        finally:
            self._num_waiting -= 1

    async def _settled(self):
        """Wait for what another request began; its failure is not ours."""
        while self._changing is not None and not self._changing.done():
            await asyncio.wait([self._changing])

    async def _load(self, stored, options):
        start = time.monotonic()
        result = await asyncio.to_thread(self._loader, stored, options)
        self._current = LoadedModel(stored, options, result, time.monotonic() - start)
        self._current.keep_alive = self._keep_alive
        log.info("%s loaded in %.1f s, context of %d tokens", stored.name, self._current.load_seconds, result.context_length)

    def _rest_unused(self, load: asyncio.Task):
        """A loaded model that nobody waits for any more stays as long as one after its last use."""
        if not load.cancelled() and load.exception() is not None:
            log.warning("a load that nobody waited for failed: %s", load.exception())
        elif self._current is not None and self._current.num_users == 0:
            self._current.start_timer(self._begin_unload)

    def _release(self, model):
        model.num_users -= 1
        model.last_used = time.time()
        if model.num_users:
            return
        model.idle.set()
        if model is not self._current:
            return
        if model.keep_alive == 0 or getattr(model.engine, "failure", None) is not None:
            self._begin_unload(model)
        else:
            model.start_timer(self._begin_unload)

    def _begin_unload(self, model):
        """Out of sight at once; its memory is free when `_changing` is done. An idle model only."""
        if model is self._current and model.num_users == 0:
            model.stop_timer()
            self._current = None
            self._changing = asyncio.get_running_loop().create_task(self._unload(model))

    async def _unload(self, model):
        try:
            await asyncio.to_thread(model.close)
            log.info("%s unloaded", model.stored.name)
        except Exception:  # what cannot be freed must not keep others from loading
            log.exception("unloading %s failed", model.stored.name)

    async def expire(self, stored: StoredModel):
        """Unload a model now, or after its last user. Nothing happens where it is not loaded."""
        await self._settled()
        model = self._current
        if model is None or model.stored.digest != stored.digest:
            return
        model.keep_alive = 0
        self._begin_unload(model)
        await self._settled()

    def running(self) -> list[RunningModel]:
        """What /api/ps shows."""
        return [] if self._current is None else [self._current.describe()]

    async def close(self):
        """Unload everything, for the end of the server. Requests that still run are cut off."""
        self._closed = True
        await self._settled()
        model, self._current = self._current, None
        if model is not None:
            model.stop_timer()
            await self._unload(model)


def default_keep_alive() -> int:
    """OLLAMA_KEEP_ALIVE in nanoseconds; negative is for ever, and 5 minutes is what cannot be read."""
    value = _duration("OLLAMA_KEEP_ALIVE")
    return durations.FOREVER if value < 0 else value


def load_timeout() -> int:
    """OLLAMA_LOAD_TIMEOUT in nanoseconds; 0 and negative are for ever, and 5 minutes is what cannot be read."""
    value = _duration("OLLAMA_LOAD_TIMEOUT")
    return value if value > 0 else durations.FOREVER


def _duration(name: str) -> int:
    """A duration (1h30m) or a number of seconds -> nanoseconds, at most FOREVER; 5 minutes where it is neither."""
    text = settings.get(name)
    try:
        return durations.parse(text)
    except ValueError:
        try:
            return min(int(text) * durations.SECOND, durations.FOREVER)
        except ValueError:
            return FIVE_MINUTES
