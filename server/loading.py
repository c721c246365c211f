"""The loader that `LoadedModels` is given in a real server: a stored model -> an engine on the device that the environment asks for."""

from vkbackend.engine.opening import open_engine
from vkbackend.errors import UnsupportedModel

from .loaded_models import LoadResult
from .parameters import Options
from .store import StoredModel, StoreError


def load_engine(stored: StoredModel, options: Options) -> LoadResult:
    """Load a model with a cache of options.num_ctx tokens for each of OLLAMA_NUM_PARALLEL sequences. Blocks while it loads.

    Raises VkbackendError: no memory, a damaged file, or no support for it.
    """
    if stored.gguf_path is None:
        raise UnsupportedModel(f"{stored.name} has no model file; create it from a GGUF file")
    if not stored.gguf_path.is_file():
        raise StoreError(f"model {stored.name}: its file {stored.gguf_path} is gone; pull or create the model again")
    if stored.adapter_paths:
        raise UnsupportedModel(f"{stored.name} has an adapter, which is not supported yet; create the model without it")
    opened = open_engine(stored.gguf_path, context_length=options.num_ctx, num_gpu=options.num_gpu)
    return LoadResult(opened.engine, opened.tokenizer, opened.gguf, opened.size, opened.size_vram, opened.context_length, opened.close)
