"""Checks config.json against the weights: each tensor must have the shape that follows from config.json.

In: GGUF metadata made from config.json; names and shapes of tensors. Out: nothing, or a CannotConvert that names the
key, the tensor and both numbers.
"""

from dataclasses import dataclass
from typing import Any

from .source import CannotConvert

HIDDEN = "hidden"
FEED_FORWARD = "feed forward"
HEADS = "heads"
KV_HEADS = "kv heads"
HEAD_DIM = "head dim"
VOCAB = "vocab"
# Part of a GGUF name -> meaning of its rows and columns, or of a vector's elements.
PARTS = {
    "token_embd": (VOCAB, HIDDEN),
    "output": (VOCAB, HIDDEN),
    "output_norm": (HIDDEN,),
    "attn_norm": (HIDDEN,),
    "ffn_norm": (HIDDEN,),
    "post_attention_norm": (HIDDEN,),
    "post_ffw_norm": (HIDDEN,),
    "attn_q": (HEADS, HIDDEN),
    "attn_k": (KV_HEADS, HIDDEN),
    "attn_v": (KV_HEADS, HIDDEN),
    "attn_output": (HIDDEN, HEADS),
    "attn_q_norm": (HEAD_DIM,),
    "attn_k_norm": (HEAD_DIM,),
    "ffn_gate": (FEED_FORWARD, HIDDEN),
    "ffn_up": (FEED_FORWARD, HIDDEN),
    "ffn_down": (HIDDEN, FEED_FORWARD),
}


@dataclass(frozen=True)
class Size:
    """A number from config.json; text: key and number as shown in errors."""

    text: str
    number: int


class Shapes:
    """metadata: GGUF keys and values. vocab_size: from config.json, or None."""

    def __init__(self, metadata: dict[str, Any], vocab_size: int | None):
        prefix = metadata["general.architecture"]

        def number(key: str) -> int:
            return metadata[f"{prefix}.{key}"]

        has_key_length = f"{prefix}.attention.key_length" in metadata
        head_dim = number("attention.key_length" if has_key_length else "rope.dimension_count")
        heads = number("attention.head_count")
        kv_heads = number("attention.head_count_kv")
        self._sizes = {
            HIDDEN: _plain("hidden_size", number("embedding_length")),
            FEED_FORWARD: _plain("intermediate_size", number("feed_forward_length")),
            HEADS: _product("num_attention_heads", heads, head_dim),
            KV_HEADS: _product("num_key_value_heads", kv_heads, head_dim),
            HEAD_DIM: _plain("head_dim", head_dim),
            VOCAB: None if vocab_size is None else _plain("vocab_size", vocab_size),
        }

    def check(self, name: str, stored_name: str, shape: tuple[int, ...]) -> None:
        """Check the shape of a tensor, `name` in a GGUF and `stored_name` in its file. Raises CannotConvert."""
        _, part, kind = f".{name}".rsplit(".", 2)
        dimensions = PARTS.get(part)
        if dimensions is None:
            return
        if kind == "bias":
            dimensions = dimensions[:1]
        if len(shape) != len(dimensions):
            raise CannotConvert(
                f"tensor {stored_name} has shape {list(shape)}, but {len(dimensions)} dimensions are "
                "expected; do the files belong to the same model?"
            )
        words = ("elements",) if len(shape) == 1 else ("rows", "columns")
        for found, dimension, word in zip(shape, dimensions, words):
            size = self._sizes[dimension]
            if size is not None and found != size.number:
                raise CannotConvert(
                    f"config.json: {size.text}, but tensor {stored_name} has {found} {word}; "
                    "does config.json belong to another model?"
                )


def _plain(key: str, number: int) -> Size:
    return Size(f"{key} is {number}", number)


def _product(key: str, count: int, head_dim: int) -> Size:
    return Size(f"{key} x head_dim is {count} x {head_dim} = {count * head_dim}", count * head_dim)
