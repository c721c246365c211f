"""GGUF file -> a model that executors run. Architectures are found by their file's name: `general.architecture` = "llama" is
`models/llama.py`, which exports `Config` and `Model`.
"""

import importlib
import logging
import pkgutil
from dataclasses import dataclass

from ..device.discover import available_host_memory
from ..errors import GGUFError, OutOfMemory, UnsupportedModel
from ..gguf.reader import GGUFFile
from ..ops.packed import expand
from .placement import DevicePlacer
from .weights import Hyperparameters, Weights

SHARE_FOR_WEIGHTS = 0.75  # of the memory that is free; the rest is for caches, activations and other programs

log = logging.getLogger(__name__)

_HELPERS = ("layers", "placement", "weights")
ARCHITECTURES = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _HELPERS)


@dataclass
class LoadedModel:
    """A model's layers with their weights. device: where they lie, None for the twins. num_bytes: what they take there; for the twins the file
    and what of it is kept dequantized."""

    gguf: GGUFFile
    architecture: str
    config: object
    layers: object
    device: object
    num_bytes: int


def load(path, device=None) -> LoadedModel:
    """Open a GGUF file and place its weights on `device` (None: keep them as numpy arrays for the twins).

    Raises GGUFError, UnsupportedModel, OutOfMemory (before anything large is allocated), DeviceError.
    """
    try:
        gguf = GGUFFile.open(path)
    except OSError as error:
        raise GGUFError(f"{path} cannot be read ({error.strerror or error}); give the path of a GGUF file, and see that it may be read") from None
    architecture = gguf.metadata.get("general.architecture", str)
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(f"{path} has the architecture {architecture!r}; readable here: {', '.join(ARCHITECTURES)}")
    module = importlib.import_module(f".{architecture}", __name__)
    config = module.Config.from_gguf(Hyperparameters(gguf))
    num_bytes = sum(info.num_bytes for info in gguf.tensors.values())
    _check_memory(path, num_bytes, device)
    weights = Weights(gguf)
    layers = module.Model(weights, config)
    weights.check_all_used()
    if device is None:
        num_bytes += _expand(path, weights.factors)
        gguf.release_pages()
        return LoadedModel(gguf, architecture, config, layers, None, num_bytes)
    # Built again, on the device: the first one, which took no copies, found the file whole before anything was moved.
    placer = DevicePlacer(device, num_bytes)
    layers = module.Model(Weights(gguf, placer), config)
    gguf.release_pages()
    return LoadedModel(gguf, architecture, config, layers, device, placer.arena.num_bytes)


def _expand(path, factors) -> int:
    """Keep what the twins multiply with dequantized, so far as there is room for it -> bytes that this took."""
    free = available_host_memory()
    taken, wanted = expand(factors, int(free * SHARE_FOR_WEIGHTS)), sum(matrix.f32_bytes for matrix in factors)
    if taken < wanted:
        log.warning("%s needs %.2f GiB for its weights in f32, of which this machine has room for %.2f GiB: the others are dequantized anew for "
                    "each token, which is slow; close other programs, use a smaller model, or a Vulkan device", path, wanted / 2**30, taken / 2**30)
    return taken


def _check_memory(path, num_bytes: int, device) -> None:
    where, free = (device.info.name, device.free_memory(num_bytes)) if device else ("this machine", available_host_memory())
    if num_bytes > free:
        raise OutOfMemory(f"{path} needs {num_bytes / 2**30:.2f} GiB for its weights; {where} has {free / 2**30:.2f} GiB free: "
                          "close other programs, or use a smaller model or quantization")
