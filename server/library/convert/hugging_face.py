"""Reads a Hugging Face folder (config.json, tokenizer files, *.safetensors) as a `Source`.

In: {name in the folder: path}. ARCHITECTURES maps names in `architectures` of config.json to modules of this package.
As in Ollama, matrices keep 16 bits (float32 becomes float16) and vectors become float32.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gguf import GGMLQuantizationType

from vkbackend.errors import VkbackendError

from ...go.text import quote
from ..quantization import FILE_TYPE_NUMBERS
from . import gemma3, llama
from .config import Config
from .file_choice import chosen
from .gguf_out import encode, pair
from .safetensors import SafetensorsFile, StoredTensor
from .shapes import Shapes
from .source import CannotConvert, Source, Tensor
from .tokenizer_files import tokenizer_metadata


class Architecture(Protocol):
    """A module that knows the names and metadata of one architecture."""

    NAME: str  # `general.architecture`
    IS_TIED: bool  # whether the embedding is also the output matrix, unless config.json says so

    def metadata(self, config: Config) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(GGUF metadata, additional tensors). Raises CannotConvert."""
        ...

    def tensor_name(self, name: str) -> str | None:
        """Name in a GGUF; None for a tensor to leave out. Raises CannotConvert for an unknown tensor."""
        ...

    def change(self, name: str, shape: tuple[int, ...], config: Config) -> tuple[np.ndarray | None, float]:
        """(order of rows, value added to all elements) of a tensor, by its GGUF name. Raises CannotConvert."""
        ...


# The vision part of gemma3 is left out: images are not supported.
ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": llama,
    "Gemma3ForCausalLM": gemma3,
    "Gemma3ForConditionalGeneration": gemma3,
}
LEVEL = "F16"  # file type of every converted model, even if its matrices are BF16, as in Ollama
MAX_TEXT_BYTES = 256 << 20  # for config.json and tokenizer files; tokenizer.json of gemma3 has 33 MB


class UnsupportedArchitecture(VkbackendError):
    """No module for a name in `architectures` of config.json."""

    def __init__(self, name: str):
        super().__init__(f"unsupported architecture {quote(name)}")


def from_folder(files: dict[str, Path]) -> Source:
    """The model in a folder. Raises UnsupportedArchitecture and CannotConvert, which names the file and the fault."""
    whole = Config(read_json(files, "config.json"))
    architecture = ARCHITECTURES.get(whole.architecture)
    if architecture is None:
        raise UnsupportedArchitecture(whole.architecture)
    config = whole.part("text_config") or whole
    opened = [SafetensorsFile(files[name], name) for name in chosen(list(files))]
    metadata, extra = architecture.metadata(config)
    shapes = Shapes(metadata, config.whole("vocab_size") if "vocab_size" in config else None)
    tensors = [
        *_tensors(architecture, config, opened, shapes),
        *(_constant(name, values) for name, values in extra.items()),
    ]
    embedding = next((tensor for tensor in tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None:
        raise CannotConvert(
            "the safetensors files have no model.embed_tokens.weight; a file is missing, provide all of them"
        )
    _check_layers(tensors, config.whole("num_hidden_layers"))
    metadata |= {"general.file_type": FILE_TYPE_NUMBERS[LEVEL], "general.quantization_version": 2}
    metadata |= tokenizer_metadata(
        lambda name: read_json(files, name) if name in files else None,
        lambda name: read_bytes(files, name) if name in files else None,
        embedding.num_rows,
    )
    general_first = sorted(metadata, key=lambda key: (not key.startswith("general."), key))
    pairs = {key: pair(key, metadata[key]) for key in general_first}

    def release() -> None:
        for file in opened:
            file.release_pages()

    return Source(LEVEL, pairs, tensors, release)


def read_bytes(files: dict[str, Path], name: str) -> bytes:
    """Contents of a file of the folder. Raises CannotConvert."""
    if name not in files:
        raise CannotConvert(f"{name} is missing; provide it together with the *.safetensors files")
    if files[name].stat().st_size > MAX_TEXT_BYTES:
        raise CannotConvert(f"{name} is larger than {MAX_TEXT_BYTES >> 20} MiB; is it the right file?")
    return files[name].read_bytes()


def read_json(files: dict[str, Path], name: str) -> dict[str, Any]:
    """The JSON object in a file of the folder. Raises CannotConvert."""
    try:
        value = json.loads(read_bytes(files, name))
    except (ValueError, RecursionError) as error:
        raise CannotConvert(f"{name} is not JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise CannotConvert(f"{name} is not a JSON object; download it again")
    return value


def _tensors(
    architecture: Architecture, config: Config, opened: Sequence[SafetensorsFile], shapes: Shapes
) -> list[Tensor]:
    is_tied = config.get("tie_word_embeddings", architecture.IS_TIED) is True
    tensors: dict[str, Tensor] = {}
    for file in opened:
        for stored in file.tensors.values():
            name = architecture.tensor_name(stored.name)
            if name is None or name == "output.weight" and is_tied:
                continue
            if name in tensors:
                raise CannotConvert(
                    f"duplicate tensor name '{name}' was found for this model ({stored.name} of {file.name}); provide "
                    "each weight once"
                )
            shapes.check(name, stored.name, stored.shape)
            order, added = architecture.change(name, stored.shape, config)
            tensors[name] = _tensor(name, stored, order, added)
    return list(tensors.values())


def _check_layers(tensors: list[Tensor], num_layers: int) -> None:
    """Check that all layers have the same tensors: otherwise a missing file would show only when the model is run.

    Raises CannotConvert.
    """
    layers: dict[int, set[str]] = {number: set() for number in range(num_layers)}
    for tensor in tensors:
        if tensor.name.startswith("blk."):
            _, number, part = tensor.name.split(".", 2)
            if int(number) not in layers:
                raise CannotConvert(
                    f"config.json: num_hidden_layers is {num_layers}, but the safetensors files have layer "
                    f"{int(number) + 1} ({tensor.name}); does config.json belong to another model?"
                )
            layers[int(number)].add(part)
    wanted = set().union(*layers.values())
    for number, parts in layers.items():
        if parts != wanted or not parts:
            lacking = ", ".join(sorted(wanted - parts)[:4]) if parts else "all its weights"
            raise CannotConvert(
                f"config.json: num_hidden_layers is {num_layers}, but layer {number + 1} lacks {lacking}; "
                "a safetensors file is missing, provide all of them"
            )


def _tensor(name: str, stored: StoredTensor, order: np.ndarray | None, added: float) -> Tensor:
    """order: for each row (of a vector: element) its number in the file; added: value added to all elements."""
    if len(stored.shape) == 1:
        kind = GGMLQuantizationType.F32
        values = stored.rows(slice(None)) + np.float32(added)
        if order is not None:
            values = values[:, order]
        return Tensor(
            name,
            stored.shape,
            kind,
            lambda first, last: values[first:last],
            lambda first, last: encode(values[first:last], kind, name),
        )
    kind = GGMLQuantizationType.F16 if stored.type is GGMLQuantizationType.F32 else stored.type

    def which(first: int, last: int) -> slice | np.ndarray:
        return slice(first, last) if order is None else order[first:last]

    def as_stored(first: int, last: int) -> bytes:
        if kind is stored.type:
            return stored.elements[which(first, last)].tobytes()
        return encode(stored.rows(which(first, last)), kind, name)

    return Tensor(name, stored.shape, kind, lambda first, last: stored.rows(which(first, last)), as_stored)


def _constant(name: str, values: np.ndarray) -> Tensor:
    rows = values.astype(np.float32)[None]
    return Tensor(
        name,
        values.shape,
        GGMLQuantizationType.F32,
        lambda first, last: rows[first:last],
        lambda first, last: rows[first:last].tobytes(),
    )
