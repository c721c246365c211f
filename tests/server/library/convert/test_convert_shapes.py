"""Folders with inconsistent files: config.json and the weights, the tokenizer and the embedding."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hugging_face_folder import write_folder, write_safetensors
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.library import create
from vkbackend.server.library.convert import CannotConvert, from_folder, from_gguf, gguf_out
from vkbackend.server.library.convert.safetensors import SafetensorsFile
from vkbackend.server.library.store import Store
from vkbackend.server.wire import native
from vkbackend.session import Session
from vkbackend.tokenizer import Tokenizer


@pytest.fixture(scope="module", params=ARCHITECTURES)
def sound(request, tmp_path_factory):
    """Files of a valid folder."""
    place = tmp_path_factory.mktemp(request.param)
    gguf = GGUFFile.open(write_tiny_gguf(place / "original.gguf", request.param, "f16"))
    return write_folder(place / "sound", gguf, "BF16")


def changed(files: dict, tmp_path, name: str, change) -> dict:
    """The same files with one JSON document changed by a function."""
    document = json.loads(files[name].read_text())
    change(document)
    path = tmp_path / name
    path.write_text(json.dumps(document))
    return files | {name: path}


def converted(files: dict, path) -> GGUFFile:
    with open(path, "wb") as file:
        gguf_out.write(from_folder(files), {}, file.write, lambda done: None)
    return GGUFFile.open(path)


def uploaded(store: Store, files: dict) -> dict:
    digests = {}
    for name, path in files.items():
        with store.upload() as upload:
            upload.write(path.read_bytes())
            digests[name] = upload.finish()
    return digests


def run_create(store: Store, **request) -> list[str]:
    """The reported statuses, each once."""
    told, ask = [], native.CreateRequest(**request)
    create.create(store, ask, create.checked_name(ask), lambda status, **_: told.append(status))
    return list(dict.fromkeys(told))


# --- config.json against the weights


@pytest.mark.parametrize(
    "key, number, words",
    [
        ("vocab_size", 100, "vocab_size is 100, but tensor (model.embed_tokens|lm_head).weight has .* rows"),
        ("hidden_size", 128, "hidden_size is 128, but tensor .* has 256 (rows|columns|elements)"),
        ("intermediate_size", 500, "intermediate_size is 500, but tensor .*mlp.* has 512 (rows|columns)"),
        ("num_hidden_layers", 1, r"num_hidden_layers is 1, but the safetensors files have layer 2 \(blk.1"),
        ("num_hidden_layers", 3, "num_hidden_layers is 3, but layer 3 lacks all its weights"),
        ("num_attention_heads", 8, "num_attention_heads x head_dim is 8 x 64 = 512, but tensor .*self_attn.* has 256"),
        (
            "num_key_value_heads",
            4,
            "num_key_value_heads x head_dim is 4 x 64 = 256, but tensor .*self_attn.* has 128 rows",
        ),
        ("head_dim", 32, ".*head_dim is .*32.*, but tensor .*self_attn.* has (256|128|64)"),
    ],
)
def test_a_config_that_contradicts_its_weights_is_refused_by_key_and_tensor(sound, tmp_path, key, number, words):
    layers = {"layer_types": None} if key == "num_hidden_layers" else {}
    files = changed(sound, tmp_path, "config.json", lambda config: config.update({key: number} | layers))
    with pytest.raises(CannotConvert, match=f"config.json: {words}"):
        from_folder(files)


def test_create_refuses_a_contradiction_and_leaves_nothing(sound, tmp_path):
    store = Store(tmp_path / "store")
    files = changed(sound, tmp_path, "config.json", lambda config: config.update(hidden_size=128))
    digests = uploaded(store, files)
    before = {path.name for path in store.blobs.iterdir()}
    with pytest.raises(CannotConvert, match="hidden_size is 128"):
        run_create(store, model="m", files=digests)
    assert store.list() == [] and {path.name for path in store.blobs.iterdir()} == before


@pytest.mark.parametrize("shape, words", [((512,), "has 512 elements"), ((16, 16), "1 dimensions are expected")])
def test_a_tensor_of_an_odd_shape_is_refused(sound, tmp_path, shape, words):
    weights = SafetensorsFile(sound["model.safetensors"], "model.safetensors").tensors
    tensors = {name: tensor.rows(slice(None)).reshape(tensor.shape) for name, tensor in weights.items()}
    path = write_safetensors(
        tmp_path / "model.safetensors", tensors | {"model.norm.weight": np.ones(shape, np.float32)}
    )
    with pytest.raises(CannotConvert, match=f"tensor model.norm.weight has .*{words}|tensor model.norm.weight {words}"):
        from_folder(sound | {"model.safetensors": path})


@pytest.mark.parametrize(
    "architecture, absent",
    [
        ("llama", ("head_dim",)),
        ("gemma3", ("vocab_size",)),
        ("gemma3", ("num_attention_heads",)),
        ("gemma3", ("num_key_value_heads",)),
        ("gemma3", ("head_dim",)),
    ],
)
def test_what_config_json_leaves_out_takes_its_default(tmp_path, architecture, absent):
    """It may match the weights or not; the error names it in both cases."""
    original = GGUFFile.open(write_tiny_gguf(tmp_path / "original.gguf", architecture, "f16"))
    files = write_folder(tmp_path / "folder", original)
    files = changed(files, tmp_path, "config.json", lambda config: [config.pop(key) for key in absent])
    agrees = absent in (("head_dim",), ("vocab_size",)) and (architecture, absent) != ("gemma3", ("head_dim",))
    if agrees:
        from_folder(files)
    else:
        with pytest.raises(CannotConvert, match=f"config.json: .*{absent[0]}.* is .*but tensor"):
            from_folder(files)


# --- the tokenizer against the embedding


def num_rows(files: dict) -> int:
    return SafetensorsFile(files["model.safetensors"], "").tensors["model.embed_tokens.weight"].shape[0]


def add_tokens(count: int, in_vocabulary: bool, special: bool):
    def change(document):
        first = len(document["model"]["vocab"])
        for number in range(first, first + count):
            document["added_tokens"].append({"id": number, "content": f"<extra{number}>", "special": special})
            if in_vocabulary:
                document["model"]["vocab"][f"<extra{number}>"] = number

    return change


@pytest.mark.parametrize("count", [1, 70])
@pytest.mark.parametrize("in_vocabulary", [True, False])
@pytest.mark.parametrize("special", [True, False])
def test_added_tokens_beyond_the_rows_of_the_embedding_are_left_out(sound, tmp_path, count, in_vocabulary, special):
    store = Store(tmp_path / "store")
    files = changed(sound, tmp_path, "tokenizer.json", add_tokens(count, in_vocabulary, special))
    first = num_rows(sound)
    files = changed(files, tmp_path, "tokenizer_config.json", lambda config: config.update(pad_token=f"<extra{first}>"))
    run_create(store, model="m", files=uploaded(store, files))
    gguf = GGUFFile.open(store.get("m").gguf_path)
    tokens = gguf.metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == gguf.tensors["token_embd.weight"].shape[0] == first
    assert len(gguf.metadata["tokenizer.ggml.scores"]) == len(gguf.metadata["tokenizer.ggml.token_type"]) == first
    assert "tokenizer.ggml.padding_token_id" not in gguf.metadata and not [text for text in tokens if "extra" in text]
    session = Session(gguf.path)
    ids = session.tokenizer.encode(f"the <extra{first}> hell")
    assert max(ids) < first and np.isfinite(session.logits(ids)).all()


def test_an_added_token_of_tokenizer_model_may_lie_beyond_too(tmp_path):
    """As in gemma3's folders: tokenizer.model, and added_tokens.json with a token for images."""
    from convert_world import field

    original = GGUFFile.open(write_tiny_gguf(tmp_path / "original.gguf", "gemma3", "f16"))
    files = write_folder(tmp_path / "folder", original)
    columns = (original.metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type"))
    raw = b"".join(
        field(1, field(1, text.encode()) + field(2, float(score)) + field(3, int(kind)))
        for text, score, kind in zip(*columns)
    )
    (tmp_path / "tokenizer.model").write_bytes(raw)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<image_soft_token>": num_rows(files)}))
    files |= {name: tmp_path / name for name in ("tokenizer.model", "added_tokens.json")}
    gguf = converted(files, tmp_path / "out.gguf")
    assert Tokenizer.from_gguf(gguf).vocab_size == num_rows(files) == len(gguf.metadata["tokenizer.ggml.tokens"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_gguf_with_more_tokens_than_rows_takes_their_texts_for_plain_text(tmp_path, architecture):
    """gemma3's files as other converters write them."""
    source = from_gguf(GGUFFile.open(write_tiny_gguf(tmp_path / "original.gguf", architecture, "f16")))
    original = GGUFFile.open(tmp_path / "original.gguf")
    more = {"tokens": "<extra>", "token_type": 3, "scores": -1000.0}
    pairs = dict(source.pairs)
    for key, value in more.items():
        key = f"tokenizer.ggml.{key}"
        if key in original.metadata:
            before = original.metadata[key]
            column = [*before, value]
            pairs[key] = gguf_out.pair(key, column if isinstance(before, list) else np.array(column, before.dtype))
    with open(tmp_path / "more.gguf", "wb") as file:
        gguf_out.write(replace(source, pairs=pairs), {}, file.write, lambda done: None)
    session, plain = Session(tmp_path / "more.gguf"), Tokenizer.from_gguf(original)
    ids = session.tokenizer.encode("the <extra> hell")
    assert ids == plain.encode("the <extra> hell") and np.isfinite(session.logits(ids)).all()


def test_fewer_tokens_than_rows_are_filled_up_as_ollama_does(sound, tmp_path):
    rows = num_rows(sound)
    kept = rows - 3

    def shorten(document):
        document["model"]["vocab"] = {
            text: number for text, number in document["model"]["vocab"].items() if number < kept
        }
        document["model"]["merges"] = []

    gguf = converted(changed(sound, tmp_path, "tokenizer.json", shorten), tmp_path / "out.gguf")
    tokens, types = (gguf.metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type"))
    assert tokens[kept:] == ["[PAD0]", "[PAD1]", "[PAD2]"] and len(tokens) == rows
    assert list(types[kept:]) == [4] * 3 and list(gguf.metadata["tokenizer.ggml.scores"][kept:]) == [-1.0] * 3
    assert np.isfinite(Session(gguf.path).logits([1, 2, rows - 1])).all()


def test_a_tokenizer_of_another_model_is_refused(sound, tmp_path):
    """It has normal tokens without a row in the embedding."""

    def grow(document):
        document["model"]["vocab"] |= {
            f"piece{number}": len(document["model"]["vocab"]) + number for number in range(9)
        }

    with pytest.raises(CannotConvert, match=r"the tokenizer has \d+ tokens, but the embedding only \d+ rows"):
        from_folder(changed(sound, tmp_path, "tokenizer.json", grow))


# --- BF16


def test_bf16_matrices_stay_so_and_the_model_is_called_f16(sound, tmp_path):
    store = Store(tmp_path / "store")
    run_create(store, model="m", files=uploaded(store, sound))
    model = store.get("m")
    gguf = GGUFFile.open(model.gguf_path)
    kinds = {len(info.shape): info.type.name for info in gguf.tensors.values()}
    assert kinds == {1: "F32", 2: "BF16"}
    assert gguf.metadata["general.file_type"] == 1 and model.config["file_type"] == "F16"


@pytest.mark.parametrize(
    "target, kind, level",
    [
        ("q8_0", "Q8_0", "Q8_0"),
        ("Q4_K", "Q4_K", "Q4_K_M"),
        ("f32", "F32", "unknown"),
        ("bf16", "BF16", "BF16"),
        ("F16", "BF16", "F16"),
    ],
)
def test_a_bf16_model_can_be_quantized(sound, tmp_path, target, kind, level):
    """While it is converted, and from the converted model."""
    store = Store(tmp_path / "store")
    run_create(store, model="base", files=uploaded(store, sound))
    for request in ({"files": uploaded(store, sound)}, {"from_": "base"}):
        told = run_create(store, model="m", quantize=target, **request)
        gguf = GGUFFile.open(store.get("m").gguf_path)
        assert gguf.tensors["blk.0.attn_q.weight"].type.name == kind and store.get("m").config["file_type"] == level
        steps = ["converting model"] if "files" in request else []
        if target != "F16":  # which it is called already
            steps += [f"quantizing F16 model to {target.upper()}", "verifying conversion"]
        assert told[: len(steps)] == steps and told[len(steps)].startswith(
            ("creating new layer", "using existing layer")
        )
        assert told[len(steps) + 1 :] == ["writing manifest", "success"]
        assert np.isfinite(Session(gguf.path).logits([1, 2, 3])).all()
