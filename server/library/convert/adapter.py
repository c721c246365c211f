"""Reads a folder with a LoRA adapter (adapter_config.json, *.safetensors) of PEFT or MLX as a `Source`.

In: {name in the folder: path}, and the GGUF file of the model that it changes. Out: the pairs as GGUF adapters have
them: A (rank, columns), B (rows, rank), for an embedding A (vocabulary, rank).
"""

import re
from pathlib import Path
from typing import Protocol

import numpy as np
from gguf import GGMLQuantizationType

from vkbackend.gguf.reader import GGUFFile

from ..quantization import FILE_TYPE_NUMBERS
from . import llama
from .config import Config
from .file_choice import chosen
from .gguf_out import encode, pair
from .hugging_face import ARCHITECTURES, LEVEL, read_json
from .safetensors import SafetensorsFile, StoredTensor
from .source import CannotConvert, Source, Tensor

CONFIG_FILE = "adapter_config.json"
PEFT_PREFIX = "base_model.model."
# PEFT: MODULE.lora_A.weight, or MODULE.lora_A.ADAPTER.weight; of an embedding MODULE.lora_embedding_A. MLX:
# MODULE.lora_a, transposed.
NAME = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[ABab])(\.[^.]+)*")


class Names(Protocol):
    """The names and the order of rows of an architecture."""

    def tensor_name(self, name: str) -> str | None:
        """Name in a GGUF; None for a tensor to leave out. Raises CannotConvert for an unknown tensor."""
        ...

    def change(self, name: str, shape: tuple[int, ...], config: Config) -> tuple[np.ndarray | None, float]:
        """(order of rows, value added to all elements) of a tensor, by its GGUF name. Raises CannotConvert."""
        ...


class SameOrder:
    """Names as llama has them; the rows of q and k have the same order in Hugging Face's models and in GGUF."""

    def tensor_name(self, name: str) -> str | None:
        """Name in a GGUF."""
        return llama.tensor_name(name)

    def change(self, name: str, shape: tuple[int, ...], config: Config) -> tuple[np.ndarray | None, float]:
        """Nothing changes."""
        return None, 0.0


class UnsupportedAdapter(CannotConvert):
    """An architecture whose adapters cannot be converted."""

    def __init__(self) -> None:
        super().__init__("unsupported architecture")


# By `general.architecture` of the model: those whose models can be converted, and gemma2 as in the original.
ADAPTED: dict[str, Names] = {"gemma2": SameOrder(), **{names.NAME: names for names in ARCHITECTURES.values()}}


def from_adapter_folder(files: dict[str, Path], base: GGUFFile) -> Source:
    """The adapter in a folder, for the model `base`. Raises CannotConvert, which names the file and the fault."""
    if CONFIG_FILE not in files:
        raise CannotConvert(f"open {CONFIG_FILE}: no such file or directory")
    config = Config(read_json(files, CONFIG_FILE), file=CONFIG_FILE)
    architecture = base.metadata.get("general.architecture", str, "")
    if architecture not in ADAPTED:
        raise UnsupportedAdapter()
    _check_kind(config)
    opened = [SafetensorsFile(files[name], name) for name in chosen(list(files))]
    stored = [tensor for file in opened for tensor in file.tensors.values()]
    ranks = {_parsed(tensor)["module"]: min(tensor.shape) for tensor in stored}
    alpha = _alpha(config)
    heads = _heads(base, architecture)
    tensors = [
        _tensor(tensor, ADAPTED[architecture], heads, _factor(config, alpha, _parsed(tensor)["module"], ranks))
        for tensor in stored
    ]
    metadata: dict[str, str | int | float] = {
        "general.architecture": architecture,
        "general.file_type": FILE_TYPE_NUMBERS[LEVEL],
        "general.type": "adapter",
        "general.version": "v0.2",
        "adapter.lora.alpha": alpha,
        "adapter.type": "lora",
    }

    def release() -> None:
        for file in opened:
            file.release_pages()

    return Source(LEVEL, {key: pair(key, value) for key, value in metadata.items()}, tensors, release)


def _check_kind(config: Config) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA" or config.get("use_dora") is True:
        raise CannotConvert(
            f"{CONFIG_FILE} describes an adapter of type {'DoRA' if kind == 'LORA' else kind}; supported is LORA"
        )


def _alpha(config: Config) -> float:
    """The scale times the rank. 0: a scale of 1. MLX gives the scale itself, in older versions on top of an alpha."""
    mlx = config.part("lora_parameters")
    if mlx is None:
        return float(config.number("lora_alpha")) if config.get("lora_alpha") else 0.0
    base = mlx.number("alpha") if mlx.get("alpha") else float(mlx.whole("rank"))
    return base * (mlx.number("scale") if mlx.get("scale") else 1.0)


def _factor(config: Config, alpha: float, module: str, ranks: dict[str, int]) -> float:
    """What B is multiplied by, so that alpha / rank is the scale of the module: 1 but for rank-stabilized adapters and
    modules with an alpha of their own (PEFT's `use_rslora` and `alpha_pattern`).
    """
    own, patterns = alpha, config.part("alpha_pattern") or Config({}, file=CONFIG_FILE)
    for key in patterns:
        try:
            if re.fullmatch(rf"(.*\.)?({key})", module):
                own = patterns.number(key)
        except re.error as error:
            raise CannotConvert(f"{CONFIG_FILE}: alpha_pattern has the invalid pattern {key!r} ({error})") from None
    factor = own / alpha if alpha else 1.0
    return factor * ranks[module] ** 0.5 if config.get("use_rslora") is True else factor


def _heads(base: GGUFFile, architecture: str) -> Config:
    """The numbers of heads, as config.json has them."""
    count = base.metadata.get(f"{architecture}.attention.head_count", int, 1)
    kv_count = base.metadata.get(f"{architecture}.attention.head_count_kv", int, count)
    return Config({"num_attention_heads": count, "num_key_value_heads": kv_count}, file=str(base.path))


def _parsed(stored: StoredTensor) -> re.Match[str]:
    match = NAME.fullmatch(stored.name)
    if match is None or len(stored.shape) != 2:
        raise CannotConvert(
            f"tensor {stored.name} of shape {stored.shape} does not belong to a LoRA adapter; supported are pairs of "
            "matrices lora_A and lora_B"
        )
    return match


def _tensor(stored: StoredTensor, names: Names, heads: Config, factor: float) -> Tensor:
    """The rows of B are the rows of the weight, so they take its order."""
    match = _parsed(stored)
    weight = names.tensor_name(match["module"].removeprefix(PEFT_PREFIX) + ".weight")
    if weight is None:
        raise CannotConvert(f"tensor {stored.name} changes a part of the model that is left out")
    half = match["half"].lower()
    values = stored.rows(slice(None))
    # MLX transposes both; A of an embedding has a row for each token.
    if match["half"].islower() != (match["embedding"] is not None and half == "a"):
        values = values.T
    if half == "b":
        order, _ = names.change(weight, values.shape, heads)
        values = (values if order is None else values[order]) * np.float32(factor)
    values = np.ascontiguousarray(values, np.float32)
    name = f"{weight}.lora_{half}"
    kind = GGMLQuantizationType.F16 if stored.type is GGMLQuantizationType.F32 else stored.type
    kind = GGMLQuantizationType.F16 if factor != 1 else kind

    def as_stored(first: int, last: int) -> bytes:
        return encode(values[first:last], kind, name)

    return Tensor(name, values.shape, kind, lambda first, last: values[first:last], as_stored)
