"""A Hugging Face folder (config.json, tokenizer files, *.safetensors) -> a `Source`.

In: {name in the folder: path}. An architecture is a module of this package with `metadata(config)`,
`tensor_name(name)`, `change(name, shape, config)` and IS_TIED (whether the embedding is the output, too, where
config.json does not say); ARCHITECTURES says which one reads what `architectures` of config.json names. Matrices
keep 16 bits (float32 ones become float16), everything of one dimension becomes float32, as Ollama writes them.
"""

import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType

from vkbackend.errors import VkbackendError

from ..quantization import FILE_TYPE_NUMBERS
from . import gemma3, llama
from .config import Config
from .file_choice import chosen
from .gguf_out import encode, pair
from .safetensors import SafetensorsFile, StoredTensor
from .shapes import Shapes
from .source import CannotConvert, Source, Tensor
from .tokenizer_files import tokenizer_metadata

# Of gemma3 with a vision part the text model alone is taken: images are not supported here.
ARCHITECTURES = {"LlamaForCausalLM": llama, "Gemma3ForCausalLM": gemma3, "Gemma3ForConditionalGeneration": gemma3}
LEVEL = "F16"  # what a converted model is called, also one whose matrices are BF16: as Ollama does it
MAX_TEXT_BYTES = 256 << 20  # of config.json and the tokenizer's files: gemma3's tokenizer.json has 33 MB


class UnsupportedArchitecture(VkbackendError):
    def __init__(self, name: str):
        super().__init__(f'unsupported architecture "{name}"')


def from_folder(files: dict[str, Path]) -> Source:
    """Raises UnsupportedArchitecture, CannotConvert (naming the file, what is wrong, and what to do)."""
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
            "the safetensors files hold no model.embed_tokens.weight: a file is missing, give all of them"
        )
    _check_layers(tensors, config.whole("num_hidden_layers"))
    metadata |= {"general.file_type": FILE_TYPE_NUMBERS[LEVEL], "general.quantization_version": 2}
    metadata |= tokenizer_metadata(
        lambda name: read_json(files, name) if name in files else None,
        lambda name: read_bytes(files, name) if name in files else None,
        embedding.num_rows,
    )
    pairs = {
        key: pair(key, metadata[key]) for key in sorted(metadata, key=lambda key: (not key.startswith("general."), key))
    }

    def release():
        for file in opened:
            file.release_pages()

    return Source(LEVEL, pairs, tensors, release)


def read_bytes(files: dict[str, Path], name: str) -> bytes:
    if name not in files:
        raise CannotConvert(f"{name} is missing; give it together with the *.safetensors files")
    if files[name].stat().st_size > MAX_TEXT_BYTES:
        raise CannotConvert(f"{name} is larger than {MAX_TEXT_BYTES >> 20} MiB; is it another file?")
    return files[name].read_bytes()


def read_json(files: dict[str, Path], name: str) -> dict:
    try:
        value = json.loads(read_bytes(files, name))
    except (ValueError, RecursionError) as error:
        raise CannotConvert(f"{name} is not JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise CannotConvert(f"{name} is no JSON object; download it again")
    return value


def _tensors(architecture, config: Config, opened: list[SafetensorsFile], shapes: Shapes) -> list[Tensor]:
    tensors = {}
    for file in opened:
        for stored in file.tensors.values():
            name = architecture.tensor_name(stored.name)
            if (
                name is None
                or name == "output.weight"
                and config.get("tie_word_embeddings", architecture.IS_TIED) is True
            ):
                continue
            if name in tensors:
                raise CannotConvert(
                    f"duplicate tensor name '{name}' was found for this model ({stored.name} of {file.name}); give "
                    f"each weight once"
                )
            shapes.check(name, stored.name, stored.shape)
            order, added = architecture.change(name, stored.shape, config)
            tensors[name] = _tensor(name, stored, order, added)
    return list(tensors.values())


def _check_layers(tensors: list[Tensor], num_layers: int) -> None:
    """Every layer has what the others have. Raises CannotConvert: a file that is missing would show only when the
    model is run.
    """
    layers = {number: set() for number in range(num_layers)}
    for tensor in tensors:
        if tensor.name.startswith("blk."):
            _, number, part = tensor.name.split(".", 2)
            if int(number) not in layers:
                raise CannotConvert(
                    f"config.json: num_hidden_layers is {num_layers}, but the safetensors files hold layer "
                    f"{int(number) + 1} ({tensor.name}); is config.json another model's?"
                )
            layers[int(number)].add(part)
    wanted = set().union(*layers.values())
    for number, parts in layers.items():
        if parts != wanted or not parts:
            lacking = ", ".join(sorted(wanted - parts)[:4]) if parts else "all its weights"
            raise CannotConvert(
                f"config.json: num_hidden_layers is {num_layers}, but layer {number + 1} lacks {lacking}: "
                "a safetensors file is missing, give all of them"
            )


def _tensor(name: str, stored: StoredTensor, order: np.ndarray | None, added: float) -> Tensor:
    """order: which row of the file each row is (of a vector: which element); added: to every element."""
    if len(stored.shape) == 1:
        kind, values = GGMLQuantizationType.F32, stored.rows(slice(None)) + np.float32(added)
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

    def which(first, last):
        return slice(first, last) if order is None else order[first:last]

    def as_stored(first, last):
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
