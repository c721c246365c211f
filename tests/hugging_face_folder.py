"""Writes Hugging Face folders: safetensors, config.json, tokenizer files; of random weights, or of a GGUF's weights with their names given back."""

import json

import numpy as np

BF16 = "BF16"
LLAMA = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_down": "mlp.down_proj", "ffn_up": "mlp.up_proj",
         "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
GEMMA3 = LLAMA | {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "post_attention_norm": "post_attention_layernorm",
                  "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def write_safetensors(path, tensors: dict[str, np.ndarray], dtype: str = "F32", metadata: dict | None = None):
    """tensors: f32 or f16 values, written as `dtype`."""
    header, parts, at = {"__metadata__": metadata or {"format": "pt"}}, [], 0
    for name, values in tensors.items():
        raw = as_bytes(values, dtype)
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
    return path


def as_bytes(values: np.ndarray, dtype: str) -> bytes:
    if dtype == BF16:
        return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F32": np.float32, "F16": np.float16}[dtype]).tobytes()


def hugging_face_name(name: str, architecture: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{(LLAMA if architecture == 'llama' else GEMMA3)[parts[2]]}.{parts[3]}"
    return f"{TOP[parts[0]]}.{parts[1]}"


def as_hugging_face(name: str, values: np.ndarray, architecture: str, num_heads: dict[str, int]) -> np.ndarray:
    """A GGUF's values the other way round: rows of llama's q and k from neighbours to halves, gemma3's norms without their 1."""
    kind = name.split(".")[-2]
    if architecture == "llama" and kind in num_heads:
        heads, rows = num_heads[kind], len(values)
        halves = np.empty_like(values)
        for row in range(rows):
            head, within = divmod(row, rows // heads)
            halves[head * (rows // heads) + within % 2 * (rows // heads // 2) + within // 2] = values[row]
        return halves
    if architecture == "gemma3" and kind.endswith("_norm"):
        return values - np.float32(1)
    return values
