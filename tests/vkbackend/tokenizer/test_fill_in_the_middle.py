"""The tokens for filling in the middle, found by keys and by texts."""

import pytest
from gguf import GGUFWriter

from vkbackend.gguf.reader import GGUFFile
from vkbackend.tokenizer.fill_in_the_middle import fill_in_the_middle

QWEN = ["a", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_prefix|>"]
OWN = ["a", "[before]", "[after]", "[between]"]
NEWER = {"fim_pre_token_id": 1, "fim_suf_token_id": 2, "fim_mid_token_id": 3}
OLDER = {"prefix_token_id": 1, "suffix_token_id": 2, "middle_token_id": 3}


@pytest.mark.parametrize(
    "tokens, ids, found",
    [
        (QWEN, {}, ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")),
        (["▁<MID>", "▁<PRE>", "▁<SUF>"], {}, ("▁<PRE>", "▁<SUF>", "▁<MID>")),
        (OWN, NEWER, tuple(OWN[1:])),
        (OWN, OLDER, tuple(OWN[1:])),
        (QWEN, {"fim_mid_token_id": 0}, ("<|fim_prefix|>", "<|fim_suffix|>", "a")),  # a key comes first
        (OWN, {}, None),
        (QWEN[:3], {}, None),
        (["x<|fim_prefix|>", *QWEN[1:3]], {}, None),  # a part of another token's text
        (OWN, NEWER | {"fim_mid_token_id": 4}, None),
        (OWN, NEWER | {"fim_mid_token_id": "3"}, None),
        (None, NEWER, None),
    ],
)
def test_tokens_are_found_by_keys_and_by_texts(tmp_path, tokens, ids, found):
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    if tokens:
        writer.add_token_list(tokens)
    for key, value in ids.items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        add(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert fill_in_the_middle(GGUFFile.open(tmp_path / "m.gguf").metadata) == found
