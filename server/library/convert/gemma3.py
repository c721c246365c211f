"""gemma3, the text model: names, metadata, and norms with 1 added. q and k are unchanged: both sides rotate halves.

Defaults are those of Hugging Face's Gemma3TextConfig, as config.json of the larger models has only the values that
differ. Their vision part is left out.
"""

from typing import Any

import numpy as np

from vkbackend.architectures.gemma3 import GLOBAL_EVERY, LOCAL_ROPE_BASE

from .config import Config
from .llama import NAMES as LLAMA_NAMES
from .llama import translated
from .source import CannotConvert

NAMES = LLAMA_NAMES | {
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
NAME: str = "gemma3"
IS_TIED: bool = True
# Prefixes of the text model's tensors in a model with vision: before and since version 4.52 of transformers.
TEXT_PARTS = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
VISION_PARTS = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")


def tensor_name(name: str) -> str | None:
    """Name in a GGUF; None for a tensor to leave out. Raises CannotConvert for an unknown tensor."""
    if name.startswith(VISION_PARTS):
        return None
    for prefix, text_prefix in TEXT_PARTS.items():
        if name.startswith(prefix):
            name = text_prefix + name.removeprefix(prefix)
    return translated(name, NAMES, "gemma3")


def metadata(config: Config) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(metadata, additional tensors). Raises CannotConvert for a variant of gemma3 that this program cannot run."""
    num_layers = config.whole("num_hidden_layers")
    head_dim = config.whole("head_dim", 256)
    base, scaling = config.rope("full_attention")
    local_base, _ = config.rope("sliding_attention")
    if "rope_local_base_freq" in config or "rope_parameters" not in config:
        local_base = config.number("rope_local_base_freq", LOCAL_ROPE_BASE)
    is_local = _local_layers(config, num_layers)
    supported = [layer % GLOBAL_EVERY != GLOBAL_EVERY - 1 for layer in range(num_layers)]
    if is_local != supported or local_base not in (None, LOCAL_ROPE_BASE):
        raise CannotConvert(
            f"config.json: this gemma3 model is not supported; every {GLOBAL_EVERY}th layer must attend to the whole "
            f"context, and the others must have a rope base of {LOCAL_ROPE_BASE:g}"
        )
    values = {
        "general.architecture": NAME,
        "gemma3.block_count": num_layers,
        "gemma3.context_length": config.whole("max_position_embeddings", 131072),
        "gemma3.embedding_length": config.whole("hidden_size"),
        "gemma3.feed_forward_length": config.whole("intermediate_size"),
        "gemma3.attention.head_count": config.whole("num_attention_heads", 8),
        "gemma3.attention.head_count_kv": config.whole("num_key_value_heads", 4),
        "gemma3.attention.key_length": head_dim,
        "gemma3.attention.value_length": head_dim,
        "gemma3.attention.layer_norm_rms_epsilon": config.number("rms_norm_eps", 1e-6),
        "gemma3.attention.sliding_window": config.whole("sliding_window", 4096),
        "gemma3.attention.sliding_window_pattern": np.array(is_local),
        "gemma3.rope.freq_base": base or 1_000_000.0,
        "gemma3.rope.local.freq_base": LOCAL_ROPE_BASE,
    }
    if "final_logit_softcapping" in config:
        values["gemma3.final_logit_softcapping"] = config.number("final_logit_softcapping")
    if scaling is None:
        return values, {}
    if scaling.rope_type() != "linear":
        raise CannotConvert(f"config.json: rope scaling {scaling.rope_type()!r} is not supported; only linear is")
    return values | {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": scaling.number("factor")}, {}


def _local_layers(config: Config, num_layers: int) -> list[bool]:
    """Whether each layer attends only within the window; config.json has a list of layers or a period."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == num_layers:
        return [kind == "sliding_attention" for kind in kinds]
    period = config.whole("sliding_window_pattern", config.whole("_sliding_window_pattern", GLOBAL_EVERY))
    return [layer % period != period - 1 for layer in range(num_layers)]


def change(name: str, shape: tuple[int, ...], config: Config) -> tuple[None, float]:
    """(order of rows, value added to all elements)."""
    return None, 1.0 if name.endswith("_norm.weight") else 0.0
