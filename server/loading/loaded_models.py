"""The models in memory: loaded on first use, kept for a while after the last.

    async with loaded_models.acquire(stored, options, keep_alive) as model:
        model.engine.submit(...)

In: a stored model and the request's options. Out: a `LoadedModel`, which stays loaded for as long as the block lasts.
Several may be loaded; if there is no room for one more, another is unloaded (`eviction.first_to_unload`) after its
last user. Models with the same weights share memory. Loads run one at a time, in the order of their requests;
requests for loaded models do not wait for them. The loader blocks, so it runs in a thread; it is a parameter, so that
nothing here opens devices or GGUF files. All methods belong to one event loop.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

from vkbackend import settings
from vkbackend.errors import OutOfMemory
from vkbackend.progress import LoadProgress

from .. import pools
from ..errors import ApiError
from ..go import durations
from ..library.model import StoredModel
from ..library.store import Store
from ..wire.native import RunningModel
from ..wire.options import Options
from .eviction import Resident, first_to_unload
from .keep_alive import default_keep_alive, load_timeout
from .loaded_model import LoadedModel, Loader

log = logging.getLogger(__name__)

MIN_CONTEXT = 4  # Ollama's smallest num_ctx; less is raised to it
MODELS_PER_DEVICE = 3  # unless OLLAMA_MAX_LOADED_MODELS is set
BUSY = "server busy, please try again.  maximum pending requests exceeded"


class LoadedModels:
    """keep_alive (nanoseconds): for requests that give none. keep_alive, max_queue, max_models and timeout
    (nanoseconds) default to OLLAMA_KEEP_ALIVE, OLLAMA_MAX_QUEUE, OLLAMA_MAX_LOADED_MODELS and OLLAMA_LOAD_TIMEOUT.
    """

    def __init__(
        self,
        store: Store,
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
        self._turn = asyncio.Lock()  # held by the request that decides what is loaded; first come, first served
        self._turn_is_over = asyncio.Event()  # set by the request that holds the lock, or held it last
        self._num_waiting = 0
        self.loaded: list[LoadedModel] = []
        self._loading: asyncio.Task | None = None  # may outlive the request that began it
        self.progress_path: Path | None = None
        self.progress = LoadProgress()  # of the current or last load
        self._deleted: set[Path] = set()  # weights that were deleted while they were loading
        self._unloading: set[asyncio.Task] = set()
        self._closed = False

    @asynccontextmanager
    async def acquire(
        self, stored: StoredModel, options: Options, keep_alive: int | None = None
    ) -> AsyncIterator[LoadedModel]:
        """A context manager giving the LoadedModel, which may have been loaded for another name of the same weights.
        keep_alive in nanoseconds: 0 unloads after this use, negative never; None leaves it unchanged, at first
        OLLAMA_KEEP_ALIVE.

        Raises ApiError 503 if too many requests wait, 500 if loading takes longer than OLLAMA_LOAD_TIMEOUT, and
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

    def _serving(self, stored: StoredModel, options: Options) -> LoadedModel | None:
        """A loaded model that can serve this request as it is; it gets one more user."""
        for model in self.loaded:
            if not self._closed and not model.is_leaving and model.serves(stored, options):
                if model.stored.name == stored.name:
                    model.stored = stored  # it may have been created again from the same weights
                model.stop_timer()
                model.num_users += 1
                model.idle.clear()
                return model
        return None

    async def _wait_for(self, stored: StoredModel, options: Options) -> LoadedModel:
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

    async def _take_turn(self, stored: StoredModel, options: Options) -> LoadedModel:
        while True:
            if self._closed:
                raise ApiError(503, "the server is shutting down; send the request again when it is back")
            await self._settled(stored)
            model = self._serving(stored, options)
            if model is not None:
                return model
            if not self._closed and not await self._made_room(stored, options):
                await self._load_in_turn(stored, options)

    async def _made_room(self, stored: StoredModel, options: Options) -> bool:
        """Whether a model had to be unloaded first: the same one with other options, or one above the limit."""
        for model in list(self.loaded):
            if model.stored.gguf_path == stored.gguf_path:
                await self._check_alone(stored, options)
                await self._evict(model, f"{stored.name} is requested with other options")
                return True
            if model.stored.name == stored.name:
                self._leave(model)  # the name's former model; no need to wait for its users
        if len(self.loaded) < await self._most_models():
            return False
        await self._check_alone(stored, options)
        return await self._evict_one(f"{stored.name} needs a place, and {len(self.loaded)} models may be loaded")

    async def _check_alone(self, stored: StoredModel, options: Options) -> None:
        """Raise OutOfMemory if a model would not fit even without the loaded ones. Called before they are unloaded for
        it; Ollama unloads all of them first.
        """
        held = sum(model.size for model in self.loaded)
        await pools.run_to_end("models", self._loader.check_alone, stored, options, held)

    async def _most_models(self) -> int:
        if self._max_models:
            return self._max_models
        return MODELS_PER_DEVICE * max(1, await pools.run_to_end("models", self._loader.num_devices))

    async def _evict_one(self, why: str) -> bool:
        """Unload the model that Ollama's rules choose and free its memory. Returns False if there is none."""
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

    async def _evict(self, model: LoadedModel, why: str) -> None:
        when = f" after its {model.num_users} users" if model.num_users else ""
        log.info("unloading %s%s: %s", model.stored.name, when, why)
        self._leave(model)
        while model in self.loaded:
            await model.idle.wait()
            self._begin_unload(model)
        await self._memory_given_back()

    def _leave(self, model: LoadedModel) -> None:
        model.is_leaving = True
        self._begin_unload(model)

    async def _load_in_turn(self, stored: StoredModel, options: Options) -> None:
        """Load one more model, evicting others one at a time until it fits."""
        whole = bool(self.loaded)
        self.progress_path = stored.gguf_path
        self._loading = asyncio.create_task(self._load(stored, options, whole))
        try:
            await self._within_timeout(asyncio.shield(self._loading), stored)
        except OutOfMemory as error:
            if not self.loaded:
                if whole:  # the other models were unloaded in the meantime: try again
                    return
                raise
            await self._check_alone(stored, options)
            await self._evict_one(f"{stored.name} does not fit into memory with it ({error})")
        except ApiError:  # too slow: no request waits for it any more
            self._loading.add_done_callback(self._discard)
            raise
        except asyncio.CancelledError:  # abandoned; the load continues for the next request
            self._loading.add_done_callback(self._given_up)
            raise

    async def _within_timeout(self, awaitable: Awaitable, stored: StoredModel) -> None:
        try:
            seconds = None if self._timeout >= durations.FOREVER else self._timeout / durations.SECOND
            await asyncio.wait_for(awaitable, seconds)
        except TimeoutError:
            raise ApiError(
                500,
                f"timed out waiting for {stored.name} to load: it took longer than {durations.text(self._timeout)}; "
                "raise OLLAMA_LOAD_TIMEOUT",
            ) from None

    async def _settled(self, stored: StoredModel) -> None:
        """Wait for a load that another request began and abandoned, and for memory that is being freed. Failures
        there do not concern this request.
        """
        while self._loading is not None and not self._loading.done():
            await self._within_timeout(asyncio.wait([self._loading]), stored)
        await self._memory_given_back()

    async def _memory_given_back(self) -> None:
        while self._unloading:
            await asyncio.wait(self._unloading)

    async def _load(self, stored: StoredModel, options: Options, whole: bool) -> LoadedModel:
        start = time.monotonic()
        self.progress = LoadProgress()
        try:
            result = await pools.run_to_end("models", self._loader.load, stored, options, whole, self.progress)
        finally:
            is_deleted = stored.gguf_path in self._deleted
            self._deleted.discard(stored.gguf_path)
        model = LoadedModel(stored, options, result, time.monotonic() - start)
        model.keep_alive = self._keep_alive
        model.is_deleted = is_deleted
        self.loaded.append(model)
        where = "".join(f", {num} {'layer' if num == 1 else 'layers'} on {place}" for place, num in result.placement)
        log.info(
            "%s loaded in %.1f s, context of %d tokens%s",
            stored.name,
            model.load_seconds,
            result.context_length,
            where,
        )
        return model

    def _given_up(self, load: asyncio.Task) -> None:
        """Called when a load ends that its request has abandoned."""
        if not load.cancelled() and load.exception() is not None:
            log.warning("an abandoned load failed: %s", load.exception())
        self._rest_unused()

    def _rest_unused(self) -> None:
        """Start the timers of unused models: one that no request came for stays as long as after its last use."""
        for model in list(self.loaded):
            if model.is_deleted:
                self._begin_unload(model)
            elif not model.num_users and not model.is_resting:
                model.start_timer(self._begin_unload)

    def _discard(self, load: asyncio.Task) -> None:
        """Called when a load ends that took too long."""
        if not load.cancelled() and load.exception() is None:
            self._leave(load.result())

    def _release(self, model: LoadedModel) -> None:
        model.num_users -= 1
        model.last_used = time.time()
        if model.num_users:
            return
        model.idle.set()
        if model not in self.loaded:
            return
        has_failed = model.engine.failure is not None
        if model.is_leaving or model.is_deleted or model.keep_alive == 0 or has_failed:
            self._begin_unload(model)
        else:
            model.start_timer(self._begin_unload)

    def _begin_unload(self, model: LoadedModel) -> None:
        """Unload a model unless it is in use. It is out of the list at once; its memory is free when the task ends."""
        if model in self.loaded and model.num_users == 0:
            model.stop_timer()
            self.loaded.remove(model)
            task = asyncio.get_running_loop().create_task(self._unload(model))
            self._unloading.add(task)
            task.add_done_callback(self._unloading.discard)

    async def _unload(self, model: LoadedModel) -> None:
        try:
            await pools.run_to_end("models", model.close)
            log.info("%s unloaded", model.stored.name)
        except Exception:  # must not keep other models from loading
            log.exception("unloading %s failed", model.stored.name)

    async def expire(self, stored: StoredModel) -> None:
        """Unload a model's weights now, or after their last user, which may be the request that loads them. Does
        nothing if they are not loaded.
        """
        while self._loading is not None and self.is_loading(stored):
            await asyncio.wait([self._loading])
            await self._turn_is_over.wait()  # until its request has the model: it would load it again otherwise
        for model in [model for model in self.loaded if model.stored.gguf_path == stored.gguf_path]:
            model.keep_alive = 0
            self._begin_unload(model)
        await self._memory_given_back()

    async def remove(self, stored: StoredModel) -> None:
        """Unload the weights of a deleted model: now, after their last user, or, if they are being loaded, once the
        requests that wait for them are served. Does not wait for users or loads.
        """
        if stored.gguf_path is not None and self.is_loading(stored):
            self._deleted.add(stored.gguf_path)
        for model in [model for model in self.loaded if model.stored.gguf_path == stored.gguf_path]:
            model.is_deleted = True
            self._begin_unload(model)
        await self._memory_given_back()

    def is_loading(self, stored: StoredModel) -> bool:
        """Whether a model's weights are being loaded, for any request."""
        return self._loading is not None and not self._loading.done() and self.progress_path == stored.gguf_path

    def holds(self, stored: StoredModel) -> bool:
        """Whether a model's weights are loaded or being loaded, under any name."""
        return self.is_loading(stored) or any(model.stored.gguf_path == stored.gguf_path for model in self.loaded)

    @property
    def num_waiting(self) -> int:
        """Number of requests that wait for a model to be loaded."""
        return self._num_waiting

    async def plan(self, stored: StoredModel, options: Options) -> dict[str, object]:
        """The memory that a model would take if it were loaded now, as JSON values. Raises what the loader raises."""
        options.num_ctx = max(options.num_ctx, MIN_CONTEXT)
        return await pools.run("models", self._loader.plan, stored, options)

    def running(self) -> list[RunningModel]:
        """The entries of /api/ps, the model that stays longest first."""
        return sorted((model.describe() for model in self.loaded), key=lambda model: model.expires_at, reverse=True)

    async def close(self) -> None:
        """Unload everything when the server ends. Requests that still run fail."""
        self._closed = True
        while self._loading is not None and not self._loading.done():
            await asyncio.wait([self._loading])
        await self._memory_given_back()
        models = self.loaded
        self.loaded = []
        for model in models:
            model.stop_timer()
        await asyncio.gather(*(self._unload(model) for model in models))
