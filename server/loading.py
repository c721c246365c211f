"""The loader that `LoadedModels` is given in a real server: a stored model -> an engine on a Vulkan device, or on the CPU.

OLLAMA_VULKAN decides between the two, GGML_VK_VISIBLE_DEVICES which device; `num_gpu` 0 keeps one model on the CPU. Blocks while it loads.
"""

import logging

from vkbackend import settings
from vkbackend.device.context import Device
from vkbackend.device.discover import choose, list_devices
from vkbackend.engine.engine import Engine
from vkbackend.engine.runner import ModelRunner
from vkbackend.errors import UnsupportedModel
from vkbackend.gguf.reader import GGUFFile
from vkbackend.models import load
from vkbackend.tokenizer import Tokenizer

from .loaded_models import LoadResult
from .parameters import Options
from .store import StoredModel

log = logging.getLogger(__name__)


def load_engine(stored: StoredModel, options: Options) -> LoadResult:
    """Load a model with a cache of options.num_ctx tokens for each of OLLAMA_NUM_PARALLEL sequences.

    A context longer than the model was trained for is cut to that. Raises VkbackendError: no device, memory, or support for the file.
    """
    if stored.gguf_path is None:
        raise UnsupportedModel(f"{stored.name} has no model file; create it from a GGUF file")
    if stored.adapter_paths:
        raise UnsupportedModel(f"{stored.name} has an adapter, which is not supported yet; create the model without it")
    device = open_device(options)
    try:
        model = load(stored.gguf_path, device)
        tokenizer = Tokenizer.from_gguf(model.gguf)
        runner = ModelRunner(model, context_length=trained_context(model.gguf, options.num_ctx),
                             max_sequences=max(settings.get("OLLAMA_NUM_PARALLEL"), 1), kv_type=settings.get("OLLAMA_KV_CACHE_TYPE"))
    except BaseException:
        if device is not None:
            device.close()
        raise
    engine = Engine(runner, tokenizer)

    def close():
        engine.close()
        if device is not None:
            device.close()

    num_bytes = runner.num_bytes
    return LoadResult(engine, tokenizer, model.gguf, num_bytes, num_bytes if device else 0, runner.context_length, close)


def open_device(options: Options) -> Device | None:
    """The device to load on, None for the CPU."""
    if not settings.get("OLLAMA_VULKAN") or options.num_gpu == 0:
        return None
    choice = choose(list_devices(), settings.get("GGML_VK_VISIBLE_DEVICES"))
    log.info("loading on %s", choice.device.name)
    return Device(choice.device, force_discrete=settings.get("VKBACKEND_FORCE_DISCRETE"))


def trained_context(gguf: GGUFFile, num_ctx: int) -> int:
    """num_ctx, or the length the model was trained for where that is known and shorter."""
    architecture = gguf.metadata.get("general.architecture", str)
    trained = gguf.metadata.get(f"{architecture}.context_length", None, 0)
    if 0 < trained < num_ctx:
        log.warning("num_ctx %d is more than the model was trained for; using %d", num_ctx, trained)
        return trained
    return num_ctx
