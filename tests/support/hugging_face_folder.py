"""Writes Hugging Face folders: safetensors, config.json, tokenizer files; of random weights, or of a GGUF's weights
with their names given back.
"""

import json

import numpy as np

from vkbackend.gguf.quants import FORMATS
from vkbackend.gguf.reader import GGUFFile

BF16 = "BF16"
LLAMA = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_up": "mlp.up_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
GEMMA3 = LLAMA | {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
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
    """A GGUF's values the other way round: rows of llama's q and k from neighbours to halves, gemma3's norms without
    their 1.
    """
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


def values_of(gguf: GGUFFile, name: str) -> np.ndarray:
    info = gguf.tensors[name]
    return FORMATS[info.type].dequantize(gguf.data(name).reshape(int(np.prod(info.shape[:-1])), -1)).reshape(info.shape)


def config_of(gguf: GGUFFile) -> dict:
    """config.json of a tiny model."""

    def get(key):
        return gguf.metadata[f"{gguf.metadata['general.architecture']}.{key}"]

    config = {
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": get("attention.head_count_kv"),
        "max_position_embeddings": get("context_length"),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "rope_theta": get("rope.freq_base"),
        "vocab_size": get("vocab_size"),
        "head_dim": get("attention.key_length"),
    }
    if gguf.metadata["general.architecture"] == "llama":
        return {"architectures": ["LlamaForCausalLM"]} | config
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "sliding_window": get("attention.sliding_window"),
        "rope_local_base_freq": 10000.0,
        "layer_types": ["sliding_attention"] * config["num_hidden_layers"],
    } | config


def tokenizer_of(gguf: GGUFFile) -> dict:
    """tokenizer.json of a tiny model: byte-level BPE for llama, BPE that falls back to bytes for gemma3."""
    tokens, types = gguf.metadata["tokenizer.ggml.tokens"], gguf.metadata["tokenizer.ggml.token_type"]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        plain | {"id": i, "content": text, "special": bool(types[i] == 3)}
        for i, text in enumerate(tokens)
        if types[i] in (2, 3, 4)
    ]
    model = {"type": "BPE", "vocab": {text: i for i, text in enumerate(tokens)}}
    if gguf.metadata["tokenizer.ggml.model"] == "gpt2":
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        steps = [{"type": "Digits", "individual_digits": True}, byte_level]
        return {
            "model": model
            | {
                "merges": [merge.split(" ") for merge in gguf.metadata["tokenizer.ggml.merges"]],
                "byte_fallback": False,
            },
            "added_tokens": added,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        }
    scores = gguf.metadata["tokenizer.ggml.scores"]
    pieces = sorted((i for i in range(len(tokens)) if types[i] == 1), key=lambda i: -scores[i])
    merges = [
        [text[:cut], text[cut:]]
        for text in (tokens[i] for i in pieces)
        for cut in range(1, len(text))
        if text[:cut] in tokens and text[cut:] in tokens
    ]
    return {
        "model": model | {"merges": merges, "byte_fallback": True, "unk_token": "<unk>"},
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    }


def write_folder(folder, gguf: GGUFFile, dtype: str = "F32", files: int = 1) -> dict:
    """The model of a GGUF as a Hugging Face folder -> {name: path}."""
    architecture = gguf.metadata["general.architecture"]
    heads = {
        "attn_q": gguf.metadata[f"{architecture}.attention.head_count"],
        "attn_k": gguf.metadata[f"{architecture}.attention.head_count_kv"],
    }
    tensors = {
        hugging_face_name(name, architecture): as_hugging_face(name, values_of(gguf, name), architecture, heads)
        for name in gguf.tensors
    }
    folder.mkdir(exist_ok=True)
    parts = np.array_split(np.array(sorted(tensors)), files)
    for number, part in enumerate(parts, 1):
        name = "model.safetensors" if files == 1 else f"model-{number:05}-of-{files:05}.safetensors"
        write_safetensors(folder / name, {str(key): tensors[str(key)] for key in part}, dtype)
    (folder / "config.json").write_text(json.dumps(config_of(gguf)))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_of(gguf)))
    special = {
        "bos_token": gguf.metadata["tokenizer.ggml.tokens"][gguf.metadata["tokenizer.ggml.bos_token_id"]],
        "eos_token": {"content": gguf.metadata["tokenizer.ggml.tokens"][gguf.metadata["tokenizer.ggml.eos_token_id"]]},
        "add_bos_token": gguf.metadata["tokenizer.ggml.add_bos_token"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return {path.name: path for path in folder.iterdir()}
