"""Writes a GGUF file's byte-level vocabulary as a tokenizer of Hugging Face's, for clients that split texts into
tokens by themselves.

python tests/support/huggingface_tokenizer.py MODEL.gguf FOLDER
"""

import sys

from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CONTROL = 3


def write(gguf_path, folder):
    """Of SmolLM2's kind: numbers are split into digits."""
    fields = GGUFReader(gguf_path).fields
    tokens, merges, kinds, end = (
        fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type", "eos_token_id")
    )
    tokenizer = Tokenizer(
        models.BPE({token: index for index, token in enumerate(tokens)}, [tuple(merge.split(" ")) for merge in merges])
    )
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False) for token, kind in zip(tokens, kinds) if kind == CONTROL]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=tokens[end]).save_pretrained(folder)


if __name__ == "__main__":
    write(*sys.argv[1:])
