"""Tokenizers of converted models: tokenizer.json and SentencePiece's own file."""

import json

import numpy as np
import pytest
from convert_world import TEXTS, converted, field
from hugging_face_folder import (
    tokenizer_of,
    write_folder,
)
from starter_models import model_path
from tiny_gguf import ARCHITECTURES, write_tiny_gguf
from vulkan_drivers import missing

from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.library.convert import CannotConvert, sentencepiece_file
from vkbackend.server.library.convert.tokenizer_json import Vocabulary, from_sentencepiece, from_tokenizer_json
from vkbackend.tokenizer import Tokenizer


def test_a_tokenizer_without_merges_still_loads(tmp_path):
    folder = tmp_path / "folder"
    write_folder(
        folder, GGUFFile.open(write_tiny_gguf(tmp_path / "original.gguf", "llama", "f16", num_layers=1)), "F16"
    )
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(document))
    gguf = converted({path.name: path for path in folder.iterdir()}, tmp_path / "converted.gguf")
    assert len(Tokenizer.from_gguf(gguf).encode("abc", add_special=False)) == 3


def _library():
    try:
        import tokenizers
    except ImportError:
        missing("the package tokenizers is not there (pip install 'vkbackend[clients]')")
    return tokenizers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tokens_are_those_of_hugging_face(tmp_path, architecture):
    """The package `tokenizers` reads the same tokenizer.json."""
    original = GGUFFile.open(write_tiny_gguf(tmp_path / "original.gguf", architecture, "f16"))
    files = write_folder(tmp_path / "folder", original)
    theirs, ours = (
        _library().Tokenizer.from_file(str(files["tokenizer.json"])),
        Tokenizer.from_gguf(converted(files, tmp_path / "out.gguf")),
    )
    for text in TEXTS:
        assert ours.encode(text, add_special=False) == theirs.encode(text, add_special_tokens=False).ids, text


def test_smollm2s_tokens_are_those_of_hugging_face(tmp_path):
    original = GGUFFile.open(model_path("smollm2"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_of(original)))
    theirs, ours = _library().Tokenizer.from_file(str(tmp_path / "tokenizer.json")), Tokenizer.from_gguf(original)
    for text in TEXTS:
        assert ours.encode(text, add_special=False) == theirs.encode(text, add_special_tokens=False).ids, text


def test_sentencepieces_own_file(tmp_path):
    gguf = GGUFFile.open(write_tiny_gguf(tmp_path / "original.gguf", "gemma3", "f16"))
    tokens, scores, types = (gguf.metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type"))
    raw = b"".join(
        field(1, field(1, text.encode()) + field(2, float(score)) + (b"" if kind == 1 else field(3, int(kind))))
        for text, score, kind in zip(tokens, scores, types)
    )
    raw += field(2, field(4, b"trained by nobody") + field(3, 1 << 40)) + field(7, 1.5)  # other fields are passed over
    file = sentencepiece_file.read(raw)
    assert ([piece.text for piece in file.pieces], [piece.type for piece in file.pieces]) == (
        tokens,
        [int(kind) for kind in types],
    )
    assert (
        file.adds_space and not sentencepiece_file.read(raw + field(3, field(1, b"identity") + field(3, 0))).adds_space
    )
    assert from_sentencepiece(file, {}, None).add_space_prefix is True
    vocabulary = from_sentencepiece(file, {"<more>": len(tokens), "the": 0}, tokenizer_of(gguf))
    assert (
        vocabulary.tokens == [*tokens, "<more>"]
        and vocabulary.model == "llama"
        and vocabulary.add_space_prefix is False
    )
    np.testing.assert_allclose(vocabulary.scores[:-1], scores)
    assert vocabulary.types[-1] == Vocabulary.USER_DEFINED and vocabulary.types[3] == Vocabulary.UNKNOWN
    for cut in range(0, len(raw), 37):
        try:
            sentencepiece_file.read(raw[:cut])
        except CannotConvert:
            pass
    with pytest.raises(CannotConvert, match="tokenizer.model"):
        sentencepiece_file.read(b"\xff" * 40)


def test_spaces_and_ends_as_the_tokenizer_says():
    model = {"type": "BPE", "byte_fallback": True, "vocab": {"<unk>": 0, "a": 1}, "merges": []}
    prepended = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}]}
    assert from_tokenizer_json({"model": model, "normalizer": prepended}).add_space_prefix is True
    for scheme, adds in (("first", True), ("always", True), ("never", False)):
        assert (
            from_tokenizer_json(
                {"model": model, "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": scheme}}
            ).add_space_prefix
            is adds
        )
    around = {
        "type": "Sequence",
        "processors": [
            {"type": "ByteLevel"},
            {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            },
        ],
    }
    assert Vocabulary("gpt2").template_of({"post_processor": around}) == {"bos": True, "eos": False}
    assert Vocabulary("gpt2").template_of({"post_processor": {"type": "ByteLevel"}}) == {}
