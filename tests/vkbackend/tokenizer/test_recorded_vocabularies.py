"""Tokens that Ollama 0.12.11 and llama.cpp gave, for every pre-tokenizer and for the rarer kinds of vocabulary."""

import json

import numpy as np
import pytest
from llama_cpp_tokens import compare_with_llama_cpp
from llama_vocabularies import write_model
from shared_data import shared

from vkbackend.gguf.reader import GGUFFile
from vkbackend.tokenizer import Tokenizer
from vkbackend.tokenizer.bpe import ByteLevelBPE, PlainBPE
from vkbackend.tokenizer.pretokenizers import Pretokenizer
from vkbackend.tokenizer.vocabulary import TokenType

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


@pytest.mark.parametrize("name", ["unigram-nfkc-cf", "unigram-plain"])
def test_unigram_as_recorded(name):
    folder = shared("oracles/misc/vocab")
    recorded = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_gguf(GGUFFile.open(folder / recorded["gguf"]))
    assert len(recorded["texts"]) > 50
    for entry in recorded["texts"]:
        text = entry["text"]
        assert tokenizer.encode(text) == entry["tokens_special"], text
        assert tokenizer.encode(text, add_special=False) == entry["tokens"], text
        assert tokenizer.encode(text, add_special=False, parse_special=False) == entry["tokens_plain"], text
        assert tokenizer.decode(entry["tokens"]).decode("utf-8", "replace") == entry["detokenized"], text


@pytest.mark.parametrize("merges_spaces", [False, True])
@pytest.mark.parametrize("name", ["unigram-nfkc-cf", "unigram-plain"])
def test_unigram_like_llama_cpp(tmp_path, name, merges_spaces):
    metadata = GGUFFile.open(shared("oracles/misc/vocab") / f"{name}.gguf").metadata
    types = dict(zip(metadata["tokenizer.ggml.tokens"], map(TokenType, metadata["tokenizer.ggml.token_type"])))
    table = np.asarray(metadata.get("tokenizer.ggml.precompiled_charsmap", list, ())).astype(np.uint8).tobytes()
    keys = {"precompiled_charsmap": table} if table else {}
    for key in ("add_space_prefix", "bos_token_id", "eos_token_id", "unknown_token_id", "add_bos_token"):
        keys[key] = metadata[f"tokenizer.ggml.{key}"]
    keys["scores"] = metadata["tokenizer.ggml.scores"].tolist()
    path = write_model(tmp_path / "model.gguf", types, "t5", remove_extra_whitespaces=merges_spaces, **keys)
    compare_with_llama_cpp([path], count=250, seed=3)
