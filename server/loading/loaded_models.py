"""The models in memory: loaded on first use, kept for a while after the last.

    async with loaded_models.acquire(stored, options, keep_alive) as model:
        model.engine.submit(...)

In: a stored model and the request's options. Out: a `LoadedModel`, which stays loaded for as long as the block
lasts. Several may be loaded; where there is no room for one more, another gives way (`rules.first_to_unload`), after
its last user. Models made of the same weights are one in memory. Loads come one after the other, in the order in
which they were asked for; requests for what is loaded wait for nobody. A loader that blocks runs in a thread; it is
given in, so that nothing here opens devices or GGUF files. All methods belong to one event loop.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from vkbackend import settings
from vkbackend.engine.engine import Engine
from vkbackend.errors import OutOfMemory
from vkbackend.gguf.reader import GGUFFile
from vkbackend.progress import LoadProgress
from vkbackend.tokenizer import Tokenizer

from .. import pools
from ..errors import ApiError
from ..go import durations, encode
from ..library.describe import details
from ..library.model import StoredModel
from ..wire.native import RunningModel
from ..wire.options import Options
from .eviction import Resident, first_to_unload
from .keep_alive import default_keep_alive, load_timeout

log = logging.getLogger(__name__)

MIN_CONTEXT = 4  # Ollama's smallest num_ctx; less is raised to it
# A model is loaded again where one of these differs from the options it was loaded with.
LOAD_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
MODELS_PER_DEVICE = 3  # where OLLAMA_MAX_LOADED_MODELS leaves it to us
STORED_PARTS = ("gguf_path", "adapter_paths", "projector_paths")
BUSY = "server busy, please try again.  maximum pending requests exceeded"


@dataclass(frozen=True)
class LoadResult:
    """What a loader gives. size, size_vram: bytes of memory, and of it on devices; context_length: tokens of one
    sequence.

    `close` frees everything; it may block and is called once. placement: where the layers lie, in their order:
    (device or CPU, layers).
    """

    engine: Engine
    tokenizer: Tokenizer
    gguf: GGUFFile | None
    size: int
    size_vram: int
    context_length: int
    close: Callable[[], None]
    placement: tuple[tuple[str, int], ...] = ()


# Called in a thread. It may have `whole`, called like it while other models are loaded: it raises OutOfMemory rather
# than leave layers to the CPU that a device alone would hold; `num_devices`, how many devices models run on; and
# `reporting(progress)`, a loader that tells how far it is.
Loader = Callable[[StoredModel, Options], LoadResult]


class LoadedModel:
    """A model in memory. `load_seconds` is what loading took this time; `expires_at` in seconds since 1970."""

    def __init__(self, stored: StoredModel, options: Options, result: LoadResult, load_seconds: float):
        self.stored, self.options, self.load_seconds = stored, options, load_seconds
        self.engine, self.tokenizer, self.gguf = result.engine, result.tokenizer, result.gguf
        self.size, self.size_vram, self.context_length = result.size, result.size_vram, result.context_length
        self.placement = result.placement
        self.num_users = 0
        self.is_leaving = False  # gives way after its last user, and takes no new ones
        self.is_deleted = False  # goes after its last user, whatever keep_alive says
        self.keep_alive = durations.DEFAULT_KEEP_ALIVE  # nanoseconds after the last use; negative: for ever
        self.last_used = time.time()
        self.idle = asyncio.Event()
        self.idle.set()
        self._close: Callable[[], None] | None = result.close
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stays(self) -> bool:
        return self.keep_alive < 0 or self.keep_alive >= durations.FOREVER

    def serves(self, stored: StoredModel, options: Options) -> bool:
        """Whether a request for this model, or for another one made of the same weights, can use it as it is with
        these options.
        """
        if self._close is None or getattr(self.engine, "failure", None) is not None:
            return False
        if any(getattr(self.stored, name, None) != getattr(stored, name, None) for name in STORED_PARTS):
            return False
        return all(
            getattr(self.options, name) == getattr(options, name)
            for name in LOAD_OPTIONS
            if not (name == "num_gpu" and options.num_gpu < 0)
        )  # -1 leaves it to us: as it is will do

    @property
    def is_resting(self) -> bool:
        """Nobody uses it, and its time runs, or it stays for ever."""
        return self._timer is not None or self.stays

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
        assert self._close is not None, "a model is closed once"
        self._close()
        del self.engine, self.tokenizer, self.gguf
        self._close = None
        gc.collect()  # what is part of a cycle would stay until some later collection

    def describe(self) -> RunningModel:
        """For /api/ps."""
        expires = int(self.last_used * durations.SECOND) + (durations.FOREVER if self.stays else self.keep_alive)
        return RunningModel(
            self.stored.name,
            self.stored.name,
            self.size,
            self.stored.digest,
            details(self.stored),
            encode.rfc3339_nano(expires),
            self.size_vram,
            self.context_length,
        )


class LoadedModels:
    """`store` is kept for the routes; `keep_alive` (nanoseconds) holds for requests that give none,
    OLLAMA_KEEP_ALIVE by default; max_queue, max_models, load_timeout (nanoseconds): OLLAMA_MAX_QUEUE,
    OLLAMA_MAX_LOADED_MODELS, OLLAMA_LOAD_TIMEOUT by default.
    """

    def __init__(
        self,
        store,
        loader: Loader,
        keep_alive: int | None = None,
        max_queue: int | None = None,
        max_models: int | None = None,
        timeout: int | None = None,
    ):
        self.store = store
        self._loader = loader
        self._keep_alive = default_keep_alive() if keep_alive is None else keep_alive
        self._max_queue = settings.get("OLLAMA_MAX_QUEUE") if max_queue is None else max_queue
        self._max_models = settings.get("OLLAMA_MAX_LOADED_MODELS") if max_models is None else max_models
        self._timeout = load_timeout() if timeout is None else timeout
        self._turn = asyncio.Lock()  # of the request that decides what is loaded; first come, first served
        self._turn_is_over = asyncio.Event()  # of the one whose turn it is, or was last
        self._num_waiting = 0
        self.loaded: list[LoadedModel] = []
        self._loading: asyncio.Task | None = None  # outlives the request that began it
        self.progress_path: Path | None = None
        self.progress = LoadProgress()  # of the load that is under way, or was last
        self._deleted: set[Path] = set()  # weights that were deleted while they were being loaded
        self._unloading: set[asyncio.Task] = set()
        self._closed = False

    @asynccontextmanager
    async def acquire(self, stored: StoredModel, options: Options, keep_alive: int | None = None):
        """A context manager giving the LoadedModel, which may have been loaded for another name of the same weights.
        keep_alive in nanoseconds: 0 unloads after this use, negative never; None leaves it at what it was,
        OLLAMA_KEEP_ALIVE at first.

        Raises ApiError 503 where too many wait, 500 where loading takes longer than OLLAMA_LOAD_TIMEOUT, and
        whatever the loader raises.
        """
        options.num_ctx = max(options.num_ctx, MIN_CONTEXT)
        model = self._serving(stored, options) or await self._wait_for(stored, options)
        if keep_alive is not None:
            model.keep_alive = keep_alive
        try:
            yield model
        finally:
            self._release(model)

    def _serving(self, stored, options) -> LoadedModel | None:
        """A loaded model that takes this request as it is, with one more user."""
        for model in self.loaded:
            if not self._closed and not model.is_leaving and model.serves(stored, options):
                if model.stored.name == stored.name:
                    model.stored = stored  # perhaps made anew of the same weights
                model.stop_timer()
                model.num_users += 1
                model.idle.clear()
                return model
        return None

    async def _wait_for(self, stored, options) -> LoadedModel:
        if self._num_waiting >= max(self._max_queue, 1):
            raise ApiError(503, BUSY)
        self._num_waiting += 1
        try:
            async with self._turn:
                is_over = self._turn_is_over = asyncio.Event()
                try:
                    return await self._take_turn(stored, options)
                finally:
                    is_over.set()
        finally:
            self._num_waiting -= 1
            self._rest_unused()

    async def _take_turn(self, stored, options) -> LoadedModel:
        while True:
            if self._closed:
                raise ApiError(503, "the server is shutting down; send the request again when it is back")
            await self._settled(stored)
            model = self._serving(stored, options)
            if model is not None:
                return model
            if not self._closed and not await self._made_room(stored):
                await self._load_in_turn(stored, options)

    async def _made_room(self, stored) -> bool:
        """Whether somebody had to go first: who stands for the same model with other options, or one too many."""
        for model in list(self.loaded):
            if model.stored.gguf_path == stored.gguf_path:
                await self._evict(model, f"{stored.name} is wanted with other options")
                return True
            if model.stored.name == stored.name:
                self._leave(model)  # what the name stood for before; nobody waits for its users
        if len(self.loaded) < await self._most_models():
            return False
        return await self._evict_one(
            f"of {len(self.loaded)} models that may be loaded together, to make room for {stored.name}"
        )

    async def _most_models(self) -> int:
        if self._max_models:
            return self._max_models
        count = getattr(self._loader, "num_devices", None)
        return MODELS_PER_DEVICE * max(1, await pools.run_to_end("models", count) if count else 1)

    async def _evict_one(self, why: str) -> bool:
        """The model that the rules name is gone, with its memory; False where there is none."""
        found = first_to_unload(
            [
                Resident(model.stored.name, model.num_users, -1 if model.stays else model.keep_alive)
                for model in self.loaded
            ]
        )
        if found is None:
            return False
        await self._evict(self.loaded[found], why)
        return True

    async def _evict(self, model: LoadedModel, why: str):
        log.info(
            "%s gives way%s: %s",
            model.stored.name,
            f" after its {model.num_users} users" if model.num_users else "",
            why,
        )
        self._leave(model)
        while model in self.loaded:
            await model.idle.wait()
            self._begin_unload(model)
        await self._memory_given_back()

    def _leave(self, model):
        model.is_leaving = True
        self._begin_unload(model)

    async def _load_in_turn(self, stored, options):
        """One more model. Others give way, one after the other, where there is no room beside them."""
        whole = bool(self.loaded)
        self.progress_path = stored.gguf_path
        self._loading = asyncio.create_task(self._load(stored, options, whole))
        try:
            await self._within_timeout(asyncio.shield(self._loading), stored)
        except OutOfMemory as error:
            if not self.loaded:
                if whole:  # who was loaded meanwhile went by itself
                    return
                raise
            await self._evict_one(f"{stored.name} does not fit beside it ({error})")
        except ApiError:  # too slow: nobody wants it any more
            self._loading.add_done_callback(self._discard)
            raise
        except asyncio.CancelledError:  # given up; the load goes on, for whoever comes next
            self._loading.add_done_callback(self._given_up)
            raise

    async def _within_timeout(self, awaitable, stored):
        try:
            return await asyncio.wait_for(
                awaitable, None if self._timeout >= durations.FOREVER else self._timeout / durations.SECOND
            )
        except TimeoutError:
            raise ApiError(
                500,
                f"timed out waiting for {stored.name} to load: it took longer than {durations.text(self._timeout)}; "
                "OLLAMA_LOAD_TIMEOUT gives it more time",
            ) from None

    async def _settled(self, stored):
        """Wait for what another request began to load and let go of, and for memory that is being freed; failures
        there are not ours.
        """
        while self._loading is not None and not self._loading.done():
            await self._within_timeout(asyncio.wait([self._loading]), stored)
        await self._memory_given_back()

    async def _memory_given_back(self):
        while self._unloading:
            await asyncio.wait(self._unloading)

    async def _load(self, stored, options, whole: bool) -> LoadedModel:
        start = time.monotonic()
        self.progress = LoadProgress()
        loader = self._loader.reporting(self.progress) if hasattr(self._loader, "reporting") else self._loader
        loader = getattr(loader, "whole", loader) if whole else loader
        try:
            result = await pools.run_to_end("models", loader, stored, options)
        finally:
            is_deleted = stored.gguf_path in self._deleted
            self._deleted.discard(stored.gguf_path)
        model = LoadedModel(stored, options, result, time.monotonic() - start)
        model.keep_alive = self._keep_alive
        model.is_deleted = is_deleted
        self.loaded.append(model)
        log.info(
            "%s loaded in %.1f s, context of %d tokens%s",
            stored.name,
            model.load_seconds,
            result.context_length,
            "".join(
                f", {layers} {'layer' if layers == 1 else 'layers'} on {where}" for where, layers in result.placement
            ),
        )
        return model

    def _given_up(self, load: asyncio.Task):
        """A load whose request went away, and came to an end."""
        if not load.cancelled() and load.exception() is not None:
            log.warning("a load that nobody waited for failed: %s", load.exception())
        self._rest_unused()

    def _rest_unused(self):
        """A loaded model that nobody came for stays as long as one after its last use."""
        for model in list(self.loaded):
            if model.is_deleted:
                self._begin_unload(model)
            elif not model.num_users and not model.is_resting:
                model.start_timer(self._begin_unload)

    def _discard(self, load: asyncio.Task):
        """A load that took too long, and came to an end."""
        if not load.cancelled() and load.exception() is None:
            self._leave(load.result())

    def _release(self, model):
        model.num_users -= 1
        model.last_used = time.time()
        if model.num_users:
            return
        model.idle.set()
        if model not in self.loaded:
            return
        if (
            model.is_leaving
            or model.is_deleted
            or model.keep_alive == 0
            or getattr(model.engine, "failure", None) is not None
        ):
            self._begin_unload(model)
        else:
            model.start_timer(self._begin_unload)

    def _begin_unload(self, model):
        """Out of sight at once; its memory is free when its task is done. An idle model only."""
        if model in self.loaded and model.num_users == 0:
            model.stop_timer()
            self.loaded.remove(model)
            task = asyncio.get_running_loop().create_task(self._unload(model))
            self._unloading.add(task)
            task.add_done_callback(self._unloading.discard)

    async def _unload(self, model):
        try:
            await pools.run_to_end("models", model.close)
            log.info("%s unloaded", model.stored.name)
        except Exception:  # what cannot be freed must not keep others from loading
            log.exception("unloading %s failed", model.stored.name)

    async def expire(self, stored: StoredModel):
        """Unload a model's weights now, or after their last user, who may be the one that they are being loaded for.
        Nothing happens where they are not loaded.
        """
        while self.is_loading(stored):
            await asyncio.wait([self._loading])
            await self._turn_is_over.wait()  # with the model in its hands: it would load it once more otherwise
        for model in [model for model in self.loaded if model.stored.gguf_path == stored.gguf_path]:
            model.keep_alive = 0
            self._begin_unload(model)
        await self._memory_given_back()

    async def remove(self, stored: StoredModel) -> None:
        """Unload the weights of a model that was deleted: now, or after their last user, or, where they are being
        loaded, once that is over and whoever waits for them is served. Returns without waiting for either.
        """
        if self.is_loading(stored):
            self._deleted.add(stored.gguf_path)
        for model in [model for model in self.loaded if model.stored.gguf_path == stored.gguf_path]:
            model.is_deleted = True
            self._begin_unload(model)
        await self._memory_given_back()

    def is_loading(self, stored: StoredModel) -> bool:
        """Whether a model's weights are being loaded, for whichever request."""
        return self._loading is not None and not self._loading.done() and self.progress_path == stored.gguf_path

    def holds(self, stored: StoredModel) -> bool:
        """Whether a model's weights are loaded or being loaded, for it or for another name."""
        return self.is_loading(stored) or any(model.stored.gguf_path == stored.gguf_path for model in self.loaded)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a model to be loaded."""
        return self._num_waiting

    def running(self) -> list[RunningModel]:
        """What /api/ps shows: who stays longest comes first."""
        return sorted((model.describe() for model in self.loaded), key=lambda model: model.expires_at, reverse=True)

    async def close(self):
        """Unload everything, for the end of the server. Requests that still run are cut off."""
        self._closed = True
        while self._loading is not None and not self._loading.done():
            await asyncio.wait([self._loading])
        await self._memory_given_back()
        models, self.loaded = self.loaded, []
        for model in models:
            model.stop_timer()
        await asyncio.gather(*(self._unload(model) for model in models))
