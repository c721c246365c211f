"""A model in memory: the result of a loader, and the record of its users and of how long it stays."""

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vkbackend.gguf.reader import GGUFFile
from vkbackend.progress import LoadProgress
from vkbackend.tokenizer import Tokenizer

from ..go import durations, encode
from ..library.describe import details
from ..library.model import StoredModel
from ..wire.native import RunningModel
from ..wire.options import Options

if TYPE_CHECKING:  # commands that generate nothing start without the engine
    from vkbackend.engine.engine import Engine

# A model is loaded again if one of these differs from the options that it was loaded with.
LOAD_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
STORED_PARTS = ("gguf_path", "adapter_paths", "projector_paths")


@dataclass(frozen=True)
class LoadResult:
    """A loaded model. size, size_vram: bytes of memory, and bytes of it on devices; context_length: tokens of one
    sequence.

    `close` frees everything; it may block and is called once. placement: where the layers are, in their order: (device
    or CPU, number of layers).
    """

    engine: "Engine"
    tokenizer: Tokenizer
    gguf: GGUFFile | None
    size: int
    size_vram: int
    context_length: int
    close: Callable[[], None]
    placement: tuple[tuple[str, int], ...] = ()


class Loader(Protocol):
    """Loads models; called in a thread, so that its methods may block."""

    def load(self, stored: StoredModel, options: Options, whole: bool, progress: LoadProgress) -> LoadResult:
        """Load a model and report the progress. whole: other models are loaded, so raise OutOfMemory rather than leave
        layers to the CPU that a device alone would hold.
        """
        ...

    def plan(self, stored: StoredModel, options: Options) -> dict[str, object]:
        """What loading a model would take in each place, as JSON values."""
        ...

    def check_alone(self, stored: StoredModel, options: Options, held: int) -> None:
        """Raise OutOfMemory if a model would not fit even if all others, which take `held` bytes, were unloaded."""
        ...

    def num_devices(self) -> int:
        """How many devices run models."""
        ...


class LoadedModel:
    """A model in memory. load_seconds: how long loading took. last_used: seconds since 1970."""

    def __init__(self, stored: StoredModel, options: Options, result: LoadResult, load_seconds: float):
        self.stored = stored
        self.options = options
        self.load_seconds = load_seconds
        self.engine = result.engine
        self.tokenizer = result.tokenizer
        self.gguf = result.gguf
        self.size = result.size
        self.size_vram = result.size_vram
        self.context_length = result.context_length
        self.placement = result.placement
        self.num_users = 0
        self.is_leaving = False  # is unloaded after its last user, and accepts no new ones
        self.is_deleted = False  # is unloaded after its last user, whatever keep_alive is
        self.keep_alive = durations.DEFAULT_KEEP_ALIVE  # nanoseconds after the last use; negative: forever
        self.last_used = time.time()
        self.idle = asyncio.Event()
        self.idle.set()
        self._close: Callable[[], None] | None = result.close
        self._timer: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """The name that the model was loaded by."""
        return self.stored.name

    @property
    def stays(self) -> bool:
        """Whether it is kept forever."""
        return self.keep_alive < 0 or self.keep_alive >= durations.FOREVER

    def serves(self, stored: StoredModel, options: Options) -> bool:
        """Whether a request with these options can use it as it is, for this model or another one with the same
        weights.
        """
        if self._close is None or self.engine.failure is not None:
            return False
        if any(getattr(self.stored, name, None) != getattr(stored, name, None) for name in STORED_PARTS):
            return False
        return all(
            getattr(self.options, name) == getattr(options, name)
            for name in LOAD_OPTIONS
            if not (name == "num_gpu" and options.num_gpu < 0)  # -1 means automatic: any current placement will do
        )

    @property
    def is_resting(self) -> bool:
        """Whether it is unused and its timer runs, or it is kept forever."""
        return self._timer is not None or self.stays

    def start_timer(self, unload: Callable[["LoadedModel"], None]) -> None:
        """Call `unload` after keep_alive, unless it is kept forever."""
        self.stop_timer()
        if not self.stays:
            self._timer = asyncio.get_running_loop().call_later(self.keep_alive / durations.SECOND, unload, self)

    def stop_timer(self) -> None:
        """Stop the timer, if it runs."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Drop all references and free the memory. Blocks. Memory on a device is freed with the last object that
        holds it.
        """
        assert self._close is not None, "a model is closed once"
        self._close()
        del self.engine, self.tokenizer, self.gguf
        self._close = None
        gc.collect()  # objects in reference cycles would stay until some later collection

    def describe(self) -> RunningModel:
        """Its entry of /api/ps."""
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
