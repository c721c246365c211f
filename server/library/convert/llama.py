"""llama (LlamaForCausalLM): names, metadata, and rows of q and k in GGUF's order.

Rope pairs element i of a head with i + half in Hugging Face's models, and 2i with 2i + 1 in GGUF: row 2i + j of a GGUF
head is row j * half + i of Hugging Face's. The factors for long contexts of Llama 3.1 and later are a tensor of its
own (`rope_freqs.weight`).
"""

import math
import re
from typing import Any

import numpy as np

from .config import Config
from .source import CannotConvert

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.down_proj": "ffn_down",
    "mlp.up_proj": "ffn_up",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOP_NAMES = {"lm_head": "output", "model.embed_tokens": "token_embd", "model.norm": "output_norm"}
NAME: str = "llama"
IS_TIED: bool = False
# Tables that some files include although config.json implies them.
LEFT_OUT = re.compile(r".*\.rotary_emb\.inv_freq$|.*\.attention\.(bias|masked_bias)$")


def tensor_name(name: str) -> str | None:
    """Name in a GGUF; None for a tensor to leave out. Raises CannotConvert for an unknown tensor."""
    return translated(name, NAMES, "llama")


def translated(name: str, names: dict[str, str], architecture: str) -> str | None:
    """`tensor_name` with the names of an architecture."""
    part, _, kind = name.rpartition(".")
    if kind in ("weight", "bias"):
        if part in TOP_NAMES:
            return f"{TOP_NAMES[part]}.{kind}"
        match = re.fullmatch(r"model\.layers\.(\d{1,6})\.(.+)", part)
        if match and match[2] in names:
            return f"blk.{int(match[1])}.{names[match[2]]}.{kind}"
    if LEFT_OUT.match(name):
        return None
    raise CannotConvert(
        f"tensor {name} does not belong to a {architecture} model; provide the files of the model itself "
        "(no adapters, no quantized weights)"
    )


def metadata(config: Config) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(metadata, additional tensors)."""
    heads = config.whole("num_attention_heads")
    width = config.whole("hidden_size")
    head_dim = config.whole("head_dim", width // heads)
    base, scaling = config.rope()
    values: dict[str, Any] = {
        "general.architecture": NAME,
        "llama.vocab_size": config.whole("vocab_size"),
        "llama.block_count": config.whole("num_hidden_layers"),
        "llama.context_length": config.whole("max_position_embeddings"),
        "llama.embedding_length": width,
        "llama.feed_forward_length": config.whole("intermediate_size"),
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": config.whole("num_key_value_heads", heads),
        "llama.rope.dimension_count": head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.number("rms_norm_eps", 1e-6),
    }
    if base is not None:
        values["llama.rope.freq_base"] = base
    if "head_dim" in config:
        values |= {"llama.attention.key_length": head_dim, "llama.attention.value_length": head_dim}
    if scaling is None:
        return values, {}
    kind = scaling.rope_type()
    if kind == "linear":
        return values | {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": scaling.number("factor")}, {}
    if kind != "llama3":
        raise CannotConvert(f"config.json: rope scaling {kind!r} is not supported; supported are linear and llama3")
    return values, {"rope_freqs.weight": llama3_factors(base or 10000.0, head_dim, scaling)}


def llama3_factors(base: float, head_dim: int, scaling: Config) -> np.ndarray:
    """Divisor of each rope pair's angle: `factor` for low frequencies, 1 for high ones, interpolated in between."""
    factor = scaling.number("factor", 8.0)
    low = scaling.number("low_freq_factor", 1.0)
    high = scaling.number("high_freq_factor", 4.0)
    original = scaling.whole("original_max_position_embeddings", 8192)
    wavelength = 2 * math.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    turns = original / wavelength
    with np.errstate(divide="ignore", invalid="ignore"):
        smooth = (turns - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(turns > high, 1.0, np.where(turns < low, factor, between)).astype(np.float32)


def change(name: str, shape: tuple[int, ...], config: Config) -> tuple[np.ndarray | None, float]:
    """(order of rows, value added to all elements)."""
    heads = config.whole("num_attention_heads")
    count = {"attn_q": heads, "attn_k": config.whole("num_key_value_heads", heads)}.get(name.split(".")[-2])
    if count is None:
        return None, 0.0
    if shape[0] % (2 * count):
        raise CannotConvert(
            f"tensor {name} has {shape[0]} rows, which is not a multiple of 2 * {count} heads; does config.json belong "
            "to another model?"
        )
    return neighbours(shape[0], count), 0.0


def neighbours(num_rows: int, num_heads: int) -> np.ndarray:
    """For each row in GGUF's order, its number in Hugging Face's."""
    return np.arange(num_rows).reshape(num_heads, 2, -1).transpose(0, 2, 1).reshape(-1)
