"""Loads a GGUF file as a model that executors can run.

An architecture is a file of `architectures/` with a function `config` and a `Model`: `general.architecture` = "llama"
selects `architectures/llama.py`, "hunyuan-dense" `hunyuan_dense.py`.
"""

import importlib
import logging
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import architectures
from .cpu.alignment import align
from .cpu.library import ggml
from .device.context import Device
from .device.host_memory import available_host_memory
from .errors import GGUFError, OutOfMemory, UnsupportedModel
from .gguf.reader import GGUFFile, TensorInfo
from .graph.model import Config, LayeredModel
from .graph.parts import LayerSpan, LoadedPart
from .models.adapter import AdapterFile
from .models.hyperparameters import Hyperparameters
from .models.upload import upload
from .models.weights import Weights, check_types, loaded_tensors
from .ops.packed import PackedMatrix, expand, within_budget
from .progress import LoadProgress

SHARE_FOR_WEIGHTS = 0.75  # of free memory; the rest is for caches, activations and other programs

UNLIMITED = 1 << 62  # bytes

log = logging.getLogger(__name__)

ARCHITECTURES = sorted(module.name for module in pkgutil.iter_modules(architectures.__path__))


@dataclass(frozen=True)
class ModelFile:
    """A GGUF file whose header was read and checked, and adapters for it. make_layers: the architecture's `Model`."""

    path: str | Path
    gguf: GGUFFile
    architecture: str
    config: Config
    make_layers: Callable[[Weights, Config], LayeredModel]
    adapters: tuple[AdapterFile, ...] = ()

    @property
    def tensors(self) -> list[TensorInfo]:
        """All tensors that are loaded, those of adapters last."""
        return [
            *loaded_tensors(self.gguf).values(),
            *(info for adapter in self.adapters for info in adapter.tensors),
        ]

    @property
    def num_bytes(self) -> int:
        """Size in the files of all tensors that are loaded."""
        return sum(info.num_bytes for info in self.tensors)

    def release_pages(self) -> None:
        """Release the pages of the files in memory. The system reads them again when they are used."""
        for gguf in (self.gguf, *(adapter.gguf for adapter in self.adapters)):
            gguf.release_pages()


@dataclass
class LoadedLayers:
    """A model's layers with their weights, in one place or in several.

    device, layers: where the weights are (None: on the CPU), and the layers; both None if the model is in several
    places, which `parts` lists in the order of the layers. num_bytes: memory that the weights take; on the CPU, the
    file and its dequantized weights.
    """

    gguf: GGUFFile
    architecture: str
    config: Config
    layers: LayeredModel | None
    device: Device | None
    num_bytes: int
    parts: list[LoadedPart] = field(default_factory=list)

    @property
    def all_parts(self) -> list[LoadedPart]:
        """`parts`, or the whole model as one."""
        if self.layers is None:
            return self.parts
        num_blocks = self.config.num_layers
        is_tied = "output.weight" not in self.gguf.tensors
        span = LayerSpan(0, num_blocks + 1, num_blocks, is_tied)
        return [LoadedPart(span, self.device, self.layers, self.num_bytes)]


def read(path: str | Path, adapters: Sequence[str | Path] = ()) -> ModelFile:
    """Open a GGUF file and adapters for it, and check their headers. Raises GGUFError, UnsupportedModel."""
    try:
        gguf = GGUFFile.open(path)
    except OSError as error:
        raise GGUFError(
            f"{path} cannot be read ({error.strerror or error}); check that it is a GGUF file and that you may read it"
        ) from None
    architecture = gguf.metadata.get("general.architecture", str)
    name = architecture.replace("-", "_")
    if name not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{path} has the architecture {architecture!r}; readable here: {', '.join(ARCHITECTURES)}"
        )
    module = importlib.import_module(f"{architectures.__name__}.{name}")
    check_types(gguf)
    config = module.config(Hyperparameters(gguf))
    opened = tuple(AdapterFile.open(each, architecture) for each in adapters)
    return ModelFile(path, gguf, architecture, config, module.Model, opened)


def load(
    path: str | Path | ModelFile,
    device: Device | None = None,
    progress: LoadProgress | None = None,
    copy_budget: int | None = None,
) -> LoadedLayers:
    """Load a GGUF file, or a `ModelFile`, with its weights on `device`, or on the CPU without one.

    progress: is updated during the load. copy_budget: bytes of weights that the CPU path may dequantize; None: a share
    of free memory. Raises GGUFError, UnsupportedModel, OutOfMemory (before anything large is
    allocated), DeviceError.
    """
    file = path if isinstance(path, ModelFile) else read(path)
    if device is not None:
        device.reopen_if_lost()
    _check_memory(file, device)
    progress = progress or LoadProgress()
    weights, layers = make_layers(file)
    progress.begin(file.num_bytes)
    if device is None:
        num_bytes = file.num_bytes + _expand(file, weights.factors, _budget(copy_budget), progress)
    else:
        num_bytes = upload(weights.made, device, file.num_bytes, progress)
    progress.end()
    file.release_pages()
    return LoadedLayers(file.gguf, file.architecture, file.config, layers, device, num_bytes)


def load_parts(
    file: ModelFile,
    places: Sequence[tuple[LayerSpan, Device | None]],
    progress: LoadProgress | None = None,
    copy_budget: int | None = None,
) -> LoadedLayers:
    """Load a model into several places: spans that cover all layers in order, each with its device (None: the CPU).

    copy_budget: as in `load`, for all parts on the CPU. Raises UnsupportedModel, OutOfMemory, DeviceError.
    """
    for _, device in places:
        if device is not None:
            device.reopen_if_lost()
    sizes = [sum(info.num_bytes for info in file.tensors if span.holds(info.name)) for span, _ in places]
    made = [
        make_layers(file) for _ in places
    ]  # all of them first, which finds faults of the file before anything is moved
    progress = progress or LoadProgress()
    progress.begin(sum(sizes))
    parts = []
    budget = _budget(copy_budget)
    for (span, device), size, (weights, layers) in zip(places, sizes, made):
        if device is None:
            factors = [matrix for matrix in weights.factors if span.holds(matrix.name)]
            used = _expand(file, factors, budget, progress)
            budget -= used
            num_bytes = size + used
        else:
            held = [weight for weight in weights.made if span.holds(weight.name)]
            num_bytes = upload(held, device, size, progress)
        parts.append(LoadedPart(span, device, layers, num_bytes))
    progress.end()
    file.release_pages()
    total = sum(part.num_bytes for part in parts)
    return LoadedLayers(file.gguf, file.architecture, file.config, None, None, total, parts)


def make_layers(file: ModelFile) -> tuple[Weights, LayeredModel]:
    """The layers of a model, whose weights are views of the file. Raises GGUFError, UnsupportedModel."""
    weights = Weights(file.gguf, file.adapters)
    layers = file.make_layers(weights, file.config)
    weights.check_all_used()
    return weights, layers


def cpu_copies(factors: list[PackedMatrix], budget: int) -> list[PackedMatrix]:
    """The weights of which the CPU path keeps a dequantized copy, in `budget` bytes; it reads the others from the
    mapped file. ggml needs no copies. factors: those that it multiplies by.
    """
    return [] if ggml() is not None else within_budget(factors, budget)


def _budget(copy_budget: int | None) -> int:
    return int(available_host_memory() * SHARE_FOR_WEIGHTS) if copy_budget is None else copy_budget


def _expand(file: ModelFile, factors: list[PackedMatrix], budget: int, progress: LoadProgress) -> int:
    """Dequantize the weights the CPU path multiplies by, as far as `budget` allows. Returns the bytes used. With ggml,
    which needs none, copy those that it cannot read in the file: they take the place of their bytes there.
    """
    if ggml() is not None:
        align(factors)
        for matrix in factors:
            progress.add(sum(raw.nbytes for raw in matrix.raws))
        return 0
    used = expand(cpu_copies(factors, budget), budget, progress.add)
    wanted = sum(matrix.f32_bytes for matrix in cpu_copies(factors, UNLIMITED))
    if used < wanted:
        log.warning(
            "%s needs %.2f GiB for its weights in f32, and this machine has room for %.2f GiB: the other weights are "
            "dequantized again for each token, which is slow; close other programs, use a smaller model, or a Vulkan "
            "device",
            file.path,
            wanted / 2**30,
            used / 2**30,
        )
    return used


def _check_memory(file: ModelFile, device: Device | None) -> None:
    if device is None:
        where, free = "this machine", available_host_memory()
    else:
        where, free = device.info.name, device.free_memory(file.num_bytes)
    if file.num_bytes > free:
        raise OutOfMemory(
            f"{file.path} needs {file.num_bytes / 2**30:.2f} GiB for its weights; {where} has {free / 2**30:.2f} GiB "
            "free: close other programs, or use a smaller model or quantization"
        )
