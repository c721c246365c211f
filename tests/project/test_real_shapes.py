"""real_shapes.py writes models that load, run and tokenize; scarce_memory.py shows the product less memory."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import real_shapes
import real_vocabularies
from places import DATA, ROOT, SUPPORT
from real_shapes import SHAPES, Shape

from vkbackend.gguf.reader import GGUFFile
from vkbackend.session import Session
from vkbackend.tokenizer import Tokenizer

NUM_LLAMA3_TOKENS = 128_000
NUM_GEMMA3_PIECES = 261_782


def small(name: str) -> Shape:
    return replace(SHAPES[name], width=256, heads=4, kv_heads=2, head_dim=64, feed_forward=512, vocabulary=1200)


@pytest.mark.parametrize("name", SHAPES)
def test_a_model_of_random_weights_runs(tmp_path, name):
    real_shapes.write(small(name), tmp_path / "model.gguf", layers=2)
    logits = Session(tmp_path / "model.gguf", device=None).logits([2, 300, 301, 302])
    assert np.isfinite(logits).all() and 0.1 < logits.std() < 30


def test_a_file_has_the_size_that_its_name_says():
    sizes = {name: sum(tensor.num_bytes for tensor in real_shapes.tensors(SHAPES[name])) / 1e9 for name in SHAPES}
    expected = {
        "llama1b": 0.80,
        "llama1b-q8": 1.31,
        "llama1b-f16": 2.47,
        "gemma4b": 2.49,
        "llama7b": 3.83,
        "llama8b": 4.91,
        "llama8b-q8": 8.53,
        "llama14b": 8.83,
    }
    assert sizes == pytest.approx(expected, rel=0.02)


def test_an_expanded_file_has_the_same_values(tmp_path, monkeypatch):
    monkeypatch.setenv("VKBACKEND_CPU", "exact")  # ggml rounds activations for quantized weights
    found = []
    for name, is_expanded in (("own", False), ("f32", True)):
        real_shapes.write(small("llama1b"), tmp_path / name, layers=1, is_expanded=is_expanded)
        found.append(Session(tmp_path / name, device=None).logits([2, 300, 301, 302]))
    assert (tmp_path / "f32").stat().st_size > 3 * (tmp_path / "own").stat().st_size
    assert np.array_equal(*found)


def test_other_bytes_are_another_version(tmp_path):
    """If this fails because real_shapes.py or real_vocabularies.py writes something else: raise VERSION, and take the
    new digest.
    """
    contents = {name: tmp_path / name for name in ("llama1b", "gemma4b")}
    for name, path in contents.items():
        real_shapes.write(small(name), path, layers=1)
    found = {name: path.read_bytes() for name, path in contents.items()}
    found["tokens"] = " ".join(real_vocabularies.byte_level_tokens(20_000)).encode()
    found["pieces"] = " ".join(islice(real_vocabularies.sentence_pieces(has_runs=True), 20_000)).encode()
    digests = {name: hashlib.sha256(data).hexdigest()[:16] for name, data in found.items()}
    assert (real_shapes.VERSION, digests) == (
        2,
        {
            "llama1b": "666f7f555bcd148d",
            "gemma4b": "c2274af02556137b",
            "tokens": "976738be040cd047",
            "pieces": "21d244e858286e55",
        },
    )


def test_a_new_version_replaces_the_cached_file(tmp_path, monkeypatch):
    monkeypatch.setenv("VKBACKEND_CACHE", str(tmp_path))
    monkeypatch.setitem(SHAPES, "llama1b", small("llama1b"))
    first = real_shapes.cached("llama1b", layers=1)
    written = first.stat().st_mtime_ns
    assert real_shapes.cached("llama1b", layers=1) == first and first.stat().st_mtime_ns == written
    monkeypatch.setattr(real_shapes, "VERSION", real_shapes.VERSION + 1)
    second = real_shapes.cached("llama1b", layers=1)
    assert list(first.parent.iterdir()) == [second]


def test_merges_of_a_real_vocabulary_are_consistent():
    tokens = real_vocabularies.byte_level_tokens(NUM_LLAMA3_TOKENS)
    merges = [tuple(merge.split(" ")) for merge in real_vocabularies.all_merges(tokens)]
    assert len(set(tokens)) == NUM_LLAMA3_TOKENS and len(set(merges)) == len(merges) >= 250_000
    results = {left + right for left, right in merges}
    known = set(tokens)
    assert results <= known and {part for merge in merges for part in merge} <= known
    assert all(token in results for token in tokens if len(token) > 1)


def test_longer_pieces_consist_of_two_pieces():
    pieces = list(islice(real_vocabularies.sentence_pieces(has_runs=True), NUM_GEMMA3_PIECES))
    known = set(pieces)
    assert len(known) == NUM_GEMMA3_PIECES
    assert all(
        any(piece[:at] in known and piece[at:] in known for at in range(1, len(piece)))
        for piece in pieces
        if len(piece) > 1
    )


@pytest.mark.parametrize("name", ["llama1b", "gemma4b"])
def test_real_vocabularies_tokenize_any_text(name):
    tokenizer = Tokenizer.from_gguf(GGUFFile.open(real_shapes.cached(name, layers=1)))
    english = (DATA / "english.txt").read_text()
    characters = "".join(map(chr, [*range(1, 0x3000), *range(0x4E00, 0x5000), 0x1F600]))
    characters = characters.replace(real_vocabularies.SPACE, "")  # SentencePiece's own sign for a space
    for text, least in ((english, 2.5), (characters, 0.0)):
        ids = tokenizer.encode(text)[1:]  # without the first, which begins the text
        assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text
        assert len(text) / len(ids) > least
    vocabulary = SHAPES[name].vocabulary
    sample = np.random.default_rng(0).integers(1000, vocabulary - 1000, 2000).tolist()
    texts = {token: tokenizer.token_bytes(token).decode(errors="replace") for token in sample}
    assert np.mean([tokenizer.encode(text)[1:] == [token] for token, text in texts.items()]) > 0.95


def test_the_script_writes_what_it_is_asked_for(tmp_path):
    out = tmp_path / "model.gguf"
    command = [sys.executable, ROOT / "scripts/make_real_shape.py", "llama1b", out, "--layers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == real_shapes.cached("llama1b", layers=1).read_bytes()
    assert list(tmp_path.iterdir()) == [out]


def test_a_device_has_the_memory_that_is_asked_for():
    environment = os.environ | {"DEVICE_GIB": "0.5", "HOST_FREE_GIB": "0.25"}
    command = [sys.executable, SUPPORT / "scarce_memory.py", "devices", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["devices"][0]
    assert (found["memory_total"], found["memory_free"]) == (1 << 29, 1 << 28)
