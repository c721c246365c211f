"""Recorded tiny models whose layers are changed: switches of an architecture that no recording crosses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from shared_data import shared

Tensors = dict[str, np.ndarray]


KINDS = {
    bool: GGUFValueType.BOOL,
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
    str: GGUFValueType.STRING,
}


@dataclass(frozen=True)
class Variant:
    """source: the recorded case. change(tensors, rng) -> tensors. fields: metadata that replace the file's."""

    source: str
    change: Callable[[Tensors, np.random.Generator], Tensors] = lambda tensors, rng: tensors
    fields: Mapping[str, int | bool | float | str] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        """The changed model."""
        reader = GGUFReader(shared(f"oracles/text/{self.source}") / "model.gguf")
        writer = GGUFWriter(path, reader.get_field("general.architecture").contents())
        for name, each in reader.fields.items():
            if name.startswith("GGUF.") or name == "general.architecture" or name in self.fields:
                continue
            kind, value = each.types[0], each.contents()
            is_array = kind is GGUFValueType.ARRAY
            writer.add_key_value(name, value, kind, sub_type=each.types[-1] if is_array else None)
        for name, value in self.fields.items():
            writer.add_key_value(name, value, KINDS[type(value)])
        tensors = {each.name: np.array(each.data).reshape(each.shape[::-1]) for each in reader.tensors}
        for name, values in self.change(tensors, np.random.default_rng(7)).items():
            writer.add_tensor(name, np.ascontiguousarray(values))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def _weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


def _with_head_norms(tensors: Tensors, rng: np.random.Generator, layers: int, kv_heads: int) -> Tensors:
    for layer in range(layers):
        tensors[f"blk.{layer}.attn_q_norm.weight"] = _weights(rng, 4, 8)
        tensors[f"blk.{layer}.attn_k_norm.weight"] = _weights(rng, kv_heads, 8)
    return tensors


def _one_norm(tensors: Tensors, rng: np.random.Generator) -> Tensors:
    kept = {name: values for name, values in tensors.items() if ".ffn_norm." not in name}
    return _with_head_norms(kept, rng, 2, 4)


def _norm_of_attention(tensors: Tensors, rng: np.random.Generator) -> Tensors:
    for layer in range(2):
        tensors[f"blk.{layer}.attn_norm_2.weight"] = _weights(rng, 32)
        tensors[f"blk.{layer}.attn_norm_2.bias"] = _weights(rng, 32) - 1
    return tensors


def _separate_projections(tensors: Tensors, rng: np.random.Generator) -> Tensors:
    for layer in range(2):
        for kind in ("weight", "bias"):
            for letter, part in zip("qkv", np.split(tensors.pop(f"blk.{layer}.attn_qkv.{kind}"), 3)):
                tensors[f"blk.{layer}.attn_{letter}.{kind}"] = part
    return tensors


def _64_layers(tensors: Tensors, rng: np.random.Generator) -> Tensors:
    """llama.cpp looks for norms of heads from this number of layers on. What layers add is small, as in deep models."""
    found = {name: values for name, values in tensors.items() if not name.startswith("blk.")}
    for layer in range(64):
        for name, values in tensors.items():
            if name.startswith(f"blk.{layer % 3}."):
                is_last = "output" in name or "down" in name
                found[f"blk.{layer}.{name.split('.', 2)[2]}"] = values * np.float32(0.3 if is_last else 1)
    return _with_head_norms(found, rng, 64, 2)


def _of_other_sizes(tensors: Tensors, rng: np.random.Generator) -> Tensors:
    """Rows of 48 instead of 32, heads of 6 instead of 16."""
    heads = {"attn_q": 4, "attn_k": 2, "attn_v": 2}
    found = {}
    for name, values in tensors.items():
        part = name.split(".")[-2]
        shape = [48 if size == 32 and part != "attn_k" and part != "attn_v" else size for size in values.shape]
        if part in heads:
            shape = [6 * heads[part], 48]
        elif part == "attn_output":
            shape = [48, 24]
        more = [(0, max(0, new - old)) for new, old in zip(shape, values.shape)]
        found[name] = np.pad(values, more, "wrap")[tuple(map(slice, shape))]
    return found


OTHER_SIZES = {"embedding_length": 48, "attention.key_length": 6, "attention.value_length": 6}

YARN = {"type": "yarn", "factor": 4.0, "original_context_length": 64}

VARIANTS = {
    "smollm3, YaRN": Variant("smollm3", fields={f"smollm3.rope.scaling.{key}": value for key, value in YARN.items()}),
    "gemma2, other sizes": Variant(
        "gemma2", _of_other_sizes, {f"gemma2.{key}": size for key, size in OTHER_SIZES.items()}
    ),
    "stablelm, parallel, norms of heads": Variant("stablelm", _one_norm, {"stablelm.use_parallel_residual": True}),
    "falcon, two norms": Variant("falcon", _norm_of_attention),
    "phi2, separate projections": Variant("phi2", _separate_projections),
    "gptneox, sequential": Variant("gptneox", fields={"gptneox.use_parallel_residual": False}),
    "command-r, norms of heads": Variant("command-r", _64_layers, {"command-r.block_count": 64}),
}
