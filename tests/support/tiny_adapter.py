"""Writes adapters for small models, and the models that have the same changes in their weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from vkbackend.gguf.quants import FORMATS
from vkbackend.gguf.reader import GGUFFile

EMBEDDING = "token_embd.weight"


def random_pairs(
    model: Path, rank: int, *, names: Sequence[str] = (), size: float = 0.1, seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(A, B) for each matrix of a model, or for those whose names contain one of `names`. size: of the elements of the
    product.
    """
    rng = np.random.default_rng(seed)
    pairs = {}
    for name, info in GGUFFile.open(model).tensors.items():
        if len(info.shape) == 2 and (not names or any(part in name for part in names)):
            rows, columns = info.shape
            a, b = ((rows, rank), (columns, rank)) if name == EMBEDDING else ((rank, columns), (rows, rank))
            scale = (size / rank**0.5) ** 0.5
            pairs[name] = tuple(rng.normal(0, scale, shape).astype(np.float32) for shape in (a, b))
    return pairs


def write_adapter(
    path: Path,
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    architecture: str = "llama",
    alpha: float | None = None,
    dtype: type = np.float32,
    fields: Mapping[str, str] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """A LoRA adapter. fields: texts that replace metadata. tensors: further ones."""
    writer = GGUFWriter(path, architecture)
    for key, text in ({"general.type": "adapter", "adapter.type": "lora"} | dict(fields or {})).items():
        writer.add_string(key, text)
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for name, (a, b) in pairs.items():
        writer.add_tensor(f"{name}.lora_a", a.astype(dtype))
        writer.add_tensor(f"{name}.lora_b", b.astype(dtype))
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_merged(
    path: Path,
    model: Path,
    adapters: Sequence[tuple[Mapping[str, tuple[np.ndarray, np.ndarray]], float]],
    weights: Path | None = None,
) -> Path:
    """A copy of a model of float32 matrices with scale * B A added to its weights. adapters: pairs, and their scale.
    weights: a file of another format whose weights replace the model's.
    """
    gguf, source, contents = GGUFFile.open(model), GGUFFile.open(weights or model), bytearray(model.read_bytes())
    for name, info in gguf.tensors.items():
        kind = FORMATS[source.tensors[name].type]
        values = kind.dequantize(source.data(name).reshape(info.shape[0] if len(info.shape) > 1 else 1, -1))
        values = values.reshape(info.shape)
        for pairs, scale in adapters:
            if name in pairs:
                a, b = pairs[name]
                values = values + np.float32(scale) * (a @ b.T if name == EMBEDDING else b @ a)
        contents[info.offset : info.offset + info.num_bytes] = values.astype(np.float32).tobytes()
    path.write_bytes(contents)
    return path
