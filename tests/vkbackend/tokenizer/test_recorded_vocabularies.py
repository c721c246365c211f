"""Tokens that Ollama 0.12.11 and llama.cpp gave, for every pre-tokenizer and for the rarer kinds of vocabulary."""

import json

from shared_data import shared

from vkbackend.gguf.reader import GGUFFile
from vkbackend.tokenizer.bpe import ByteLevelBPE, PlainBPE
from vkbackend.tokenizer.pretokenizers import Pretokenizer

# Ollama 0.12.11 did not know the tilde as a symbol, which DeepSeek's own tokenizer does.
WITHOUT_TILDE = {("deepseek-v3", "Ollama 0.12.11"): "hunyuan-dense"}


def test_every_pretokenizer_as_recorded():
    folder = shared("oracles/misc/vocab")
    recorded = json.loads((folder / "pre.json").read_text(encoding="utf-8"))
    metadata = GGUFFile.open(folder / "bpe-lines.gguf").metadata
    tokens_of = {name: group["tokens"] for group in recorded["groups"] if "tokens" in group for name in group["names"]}
    compared = 0
    for group in recorded["groups"]:
        expected = group["tokens"] if "tokens" in group else tokens_of[group["same_as"]]
        for name in group["names"]:
            pretokenizer = Pretokenizer.named(WITHOUT_TILDE.get((name, group["from"]), name))
            kind = PlainBPE if pretokenizer.row.plain else ByteLevelBPE
            model = kind(metadata, pretokenizer)
            for text, ids in zip(recorded["texts"], expected, strict=True):
                assert model.encode(text, True) == ids, (name, text)
            if "starts_with_bos" in group:
                assert model.vocabulary.add_bos == group["starts_with_bos"][name], name
            compared += 1
    assert compared > 90
