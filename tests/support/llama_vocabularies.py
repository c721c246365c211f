"""Writes models that llama.cpp can tokenize with."""

from pathlib import Path

import gguf
import numpy as np
from tokenizer_keys import add_keys

from vkbackend.tokenizer.vocabulary import TokenType


def write_model(path: Path, tokens: dict[str, TokenType], model: str = "gpt2", pre: str = "", **keys: object) -> Path:
    """A llama of one layer with zero weights, which is enough for llama.cpp to tokenize. tokens: type by text, in the
    order of ids. keys: further tokenizer.ggml.<key>.
    """
    size, writer = 32, gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_context_length, 64),
        (writer.add_embedding_length, size),
        (writer.add_block_count, 1),
        (writer.add_head_count, 1),
        (writer.add_feed_forward_length, size),
        (writer.add_rope_dimension_count, size),
        (writer.add_layer_norm_rms_eps, 1e-5),
    ):
        add(value)
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(tokens.values()))
    add_keys(writer, keys)
    shapes = {
        "token_embd": (len(tokens), size),
        "output_norm": (size,),
        "blk.0.attn_norm": (size,),
        "blk.0.ffn_norm": (size,),
    }
    shapes |= {
        f"blk.0.{name}": (size, size)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    }
    for name, shape in shapes.items():
        writer.add_tensor(name + ".weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
