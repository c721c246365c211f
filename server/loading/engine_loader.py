"""The server's loader for `LoadedModels`: opens a stored model's engine on the devices that the environment selects."""

from pathlib import Path
from typing import TYPE_CHECKING

from vkbackend.device.host_memory import total_host_memory
from vkbackend.errors import GGUFError, OutOfMemory, UnsupportedModel
from vkbackend.progress import LoadProgress

from ..library.model import StoredModel, StoreError
from ..wire.options import Options
from .loaded_model import LoadResult

if TYPE_CHECKING:
    from vkbackend.placement.memory_plan import MemoryPlan


class EngineLoader:
    """Opens models on the devices that the environment selects."""

    def load(
        self, stored: StoredModel, options: Options, whole: bool = False, progress: LoadProgress | None = None
    ) -> LoadResult:
        """Load a model. Its cache holds options.num_ctx tokens for each of OLLAMA_NUM_PARALLEL sequences;
        options.num_gpu layers go to devices, or as many as fit. whole: all layers on devices, or OutOfMemory, so that
        other models can be unloaded first. Blocks.

        Raises VkbackendError: not enough memory, a damaged file, or a model that is not supported.
        """
        from vkbackend.placement.opening import open_engine  # commands that load no model start without the engine

        opened = open_engine(
            _model_file(stored),
            adapters=_adapter_files(stored),
            context_length=options.num_ctx,
            num_gpu=options.num_gpu,
            main_gpu=options.main_gpu,
            num_threads=options.num_thread,
            whole=whole,
            progress=progress,
        )
        return LoadResult(
            engine=opened.engine,
            tokenizer=opened.tokenizer,
            gguf=opened.gguf,
            size=opened.size,
            size_vram=opened.size_vram,
            context_length=opened.context_length,
            close=opened.close,
            placement=opened.placement,
        )

    def plan(self, stored: StoredModel, options: Options) -> dict[str, object]:
        """What `load` would take in each place, as JSON values. num_ctx: as asked for; context_length: as it would be
        loaded. Blocks. Raises what `load` raises, but for memory.
        """
        return _planned(stored, options).as_dict() | {"num_ctx": options.num_ctx}

    def check_alone(self, stored: StoredModel, options: Options, held: int) -> None:
        """Raise OutOfMemory if a model would not fit even if other models, which take `held` bytes, were unloaded.
        Counts too much as free rather than too little. Blocks. Raises UnsupportedModel, too.
        """
        uncounted = total_host_memory() // 16  # scratch, kernels, and what the allocator keeps
        try:
            planned = _planned(stored, options, held + uncounted)
        except GGUFError:
            return  # loading it says what is wrong with the file, or that it is too large
        if planned.problem is not None:
            raise OutOfMemory(planned.problem)

    def num_devices(self) -> int:
        """How many devices run models."""
        from vkbackend.device import selection

        return selection.num_usable()


def _planned(stored: StoredModel, options: Options, held: int = 0) -> "MemoryPlan":
    """What loading a model would take. held: bytes that count as free. Raises as `plan_engine` does."""
    from vkbackend.placement.opening import plan_engine

    return plan_engine(
        _model_file(stored),
        adapters=_adapter_files(stored),
        context_length=options.num_ctx,
        num_gpu=options.num_gpu,
        main_gpu=options.main_gpu,
        held=held,
    )


def _model_file(stored: StoredModel) -> Path:
    """The file to load. Raises UnsupportedModel, StoreError."""
    if stored.gguf_path is None:
        raise UnsupportedModel(f"{stored.name} has no model file; create it from a GGUF file")
    return _existing(stored, stored.gguf_path)


def _adapter_files(stored: StoredModel) -> list[Path]:
    """The adapters to load. Raises StoreError."""
    return [_existing(stored, path) for path in stored.adapter_paths]


def _existing(stored: StoredModel, path: Path) -> Path:
    if not path.is_file():
        raise StoreError(f"model {stored.name}: its file {path} is gone; pull or create the model again")
    return path
