"""GGUF file -> a model that executors run. Architectures are found by their file's name: `general.architecture` =
"llama" is `architectures/llama.py`, which exports `Config` and `Model`.
"""

import importlib
import logging
import pkgutil
from dataclasses import dataclass, field

from ..device.host_memory import available_host_memory
from ..errors import GGUFError, OutOfMemory, UnsupportedModel
from ..gguf.reader import GGUFFile
from ..ops.packed import expand
from ..progress import LoadProgress
from .upload import DevicePlacer, Span, SpanPlacer
from .weights import Hyperparameters, Weights, check_types, loaded_tensors

SHARE_FOR_WEIGHTS = 0.75  # of the memory that is free; the rest is for caches, activations and other programs

log = logging.getLogger(__name__)

# Found by name at run time: architectures are written in terms of this folder's layers.
_architectures = importlib.import_module("..architectures", __package__)
ARCHITECTURES = sorted(module.name for module in pkgutil.iter_modules(_architectures.__path__))


@dataclass(frozen=True)
class ModelFile:
    """A GGUF file whose header was read and found sound."""

    path: object
    gguf: GGUFFile
    architecture: str
    config: object
    make: object  # the architecture's Model, called with weights and config

    @property
    def num_bytes(self) -> int:
        """Of all tensors that are loaded, as they are in the file."""
        return sum(info.num_bytes for info in loaded_tensors(self.gguf).values())


@dataclass
class LoadedPart:
    """Some layers of a model in one place. device: None for the twins. layers: a whole model, of which only those of
    `span` have their weights there. num_bytes: what they take there.
    """

    span: Span
    device: object
    layers: object
    num_bytes: int


@dataclass
class LoadedModel:
    """A model's layers with their weights. device: where they lie, None for the twins. num_bytes: what they take
    there; for the twins the file and what of it is kept dequantized. parts: where they lie in several places, in the
    order in which a token passes them; else empty.
    """

    gguf: GGUFFile
    architecture: str
    config: object
    layers: object
    device: object
    num_bytes: int
    parts: list[LoadedPart] = field(default_factory=list)


def read(path) -> ModelFile:
    """Raises GGUFError, UnsupportedModel."""
    try:
        gguf = GGUFFile.open(path)
    except OSError as error:
        raise GGUFError(
            f"{path} cannot be read ({error.strerror or error}); give the path of a GGUF file, and see that it may be "
            f"read"
        ) from None
    architecture = gguf.metadata.get("general.architecture", str)
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{path} has the architecture {architecture!r}; readable here: {', '.join(ARCHITECTURES)}"
        )
    module = importlib.import_module(f"{_architectures.__name__}.{architecture}")
    check_types(gguf)
    return ModelFile(path, gguf, architecture, module.Config.from_gguf(Hyperparameters(gguf)), module.Model)


def load(path, device=None, progress: LoadProgress | None = None) -> LoadedModel:
    """Open a GGUF file (or take a `ModelFile`) and place its weights on `device` (None: keep them as numpy arrays
    for the twins). progress: is told how far that is.

    Raises GGUFError, UnsupportedModel, OutOfMemory (before anything large is allocated), DeviceError.
    """
    file = path if isinstance(path, ModelFile) else read(path)
    gguf, config = file.gguf, file.config
    _check_memory(file.path, file.num_bytes, device)
    weights = Weights(gguf)
    layers = file.make(weights, config)
    weights.check_all_used()
    progress = progress or LoadProgress()
    progress.begin(file.num_bytes)
    if device is None:
        num_bytes = file.num_bytes + _expand(file.path, weights.factors, progress)
        progress.end()
        gguf.release_pages()
        return LoadedModel(gguf, file.architecture, config, layers, None, num_bytes)
    # Built again, on the device: the first one, which took no copies, found the file whole before anything was moved.
    placer = DevicePlacer(device, file.num_bytes, progress)
    layers = file.make(Weights(gguf, placer), config)
    progress.end()
    gguf.release_pages()
    return LoadedModel(gguf, file.architecture, config, layers, device, placer.arena.num_bytes)


def load_parts(file: ModelFile, places: list[tuple[Span, object]], progress: LoadProgress | None = None) -> LoadedModel:
    """A model in several places: (layers, device or None) in the order in which a token passes them, all layers and
    each once.

    Raises UnsupportedModel, OutOfMemory, DeviceError.
    """
    weights = Weights(file.gguf)
    file.make(weights, file.config)
    weights.check_all_used()
    parts = []
    held = [
        [info.num_bytes for name, info in loaded_tensors(file.gguf).items() if span.holds(name)] for span, _ in places
    ]
    progress = progress or LoadProgress()
    progress.begin(sum(map(sum, held)))
    for (span, device), sizes in zip(places, held):
        if device is None:
            weights = Weights(file.gguf)
            layers = file.make(weights, file.config)
            num_bytes = sum(sizes) + _expand(
                file.path, [matrix for matrix in weights.factors if span.holds(matrix.name)], progress
            )
        else:
            placer = SpanPlacer(device, sum(sizes), span, progress)
            layers = file.make(Weights(file.gguf, placer), file.config)
            num_bytes = placer.arena.num_bytes
        parts.append(LoadedPart(span, device, layers, num_bytes))
    progress.end()
    file.gguf.release_pages()
    return LoadedModel(
        file.gguf, file.architecture, file.config, None, None, sum(part.num_bytes for part in parts), parts
    )


def _expand(path, factors, progress: LoadProgress) -> int:
    """Keep what the twins multiply with dequantized, so far as there is room for it -> bytes that this took."""
    free = available_host_memory()
    taken, wanted = (
        expand(factors, int(free * SHARE_FOR_WEIGHTS), progress.add),
        sum(matrix.f32_bytes for matrix in factors),
    )
    if taken < wanted:
        log.warning(
            "%s needs %.2f GiB for its weights in f32, of which this machine has room for %.2f GiB: the others are "
            "dequantized anew for "
            "each token, which is slow; close other programs, use a smaller model, or a Vulkan device",
            path,
            wanted / 2**30,
            taken / 2**30,
        )
    return taken


def _check_memory(path, num_bytes: int, device) -> None:
    where, free = (
        (device.info.name, device.free_memory(num_bytes)) if device else ("this machine", available_host_memory())
    )
    if num_bytes > free:
        raise OutOfMemory(
            f"{path} needs {num_bytes / 2**30:.2f} GiB for its weights; {where} has {free / 2**30:.2f} GiB free: "
            "close other programs, or use a smaller model or quantization"
        )
