"""Damaged, incomplete and unsupported Hugging Face folders are rejected with the name of the file at fault."""

import copy
import json
import shutil

import numpy as np
import pytest
from hugging_face_folder import write_folder
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

from vkbackend.gguf.quants import FORMATS
from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.library.convert import CannotConvert, from_folder, gguf_out
from vkbackend.server.library.convert.hugging_face import UnsupportedArchitecture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A valid folder; tests damage copies of it."""
    place = tmp_path_factory.mktemp("folder")
    write_folder(
        place / "sound", GGUFFile.open(write_tiny_gguf(place / "original.gguf", "llama", "f16", num_layers=1)), "F16"
    )
    return place / "sound"


def spoilt(folder, tmp_path, **changes) -> dict:
    """A copy with files replaced (bytes), entries of a JSON file changed (dict), or files left out (None)."""
    files = {}
    for path in folder.iterdir():
        change = changes.get(path.name.replace(".", "_"), {})
        if change is None:
            continue
        files[path.name] = tmp_path / path.name
        if isinstance(change, bytes):
            files[path.name].write_bytes(change)
        elif change:
            files[path.name].write_text(json.dumps(json.loads(path.read_text()) | change))
        else:
            shutil.copy(path, files[path.name])
    return files


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(config_json=None), "config.json is missing"),
        (dict(tokenizer_json=None), "the tokenizer is missing"),
        (dict(config_json=b"{"), "config.json is not JSON"),
        (dict(config_json=b"[1]"), "config.json is not a JSON object"),
        (dict(tokenizer_json=b"[" * 9000), "tokenizer.json"),
        (dict(config_json={"architectures": []}), "unknown architecture"),
        (dict(config_json={"architectures": ["NobodyForCausalLM"]}), 'unsupported architecture "Nobody'),
        (dict(config_json={"architectures": ['a"\n\ufeff']}), r'unsupported architecture "a\\"\\n\\ufeff"'),
        (dict(config_json={"hidden_size": "many"}), "hidden_size is many, not an integer"),
        (dict(config_json={"num_hidden_layers": -1}), "num_hidden_layers is -1"),
        (
            dict(config_json={"num_hidden_layers": 4_000_000_000}),
            "num_hidden_layers is 4000000000, not an integer from 1 to 10000",
        ),
        (
            dict(config_json={"head_dim": 4_000_000_000, "rope_scaling": {"rope_type": "llama3"}}),
            "head_dim is 4000000000",
        ),
        (
            dict(config_json={"hidden_size": 4_000_000_000, "head_dim": None, "rope_scaling": {"rope_type": "llama3"}}),
            "hidden_size is 4000000000",
        ),
        (dict(config_json={"hidden_size": 2, "head_dim": None}), "head_dim is 0"),
        (dict(config_json={"num_attention_heads": 3}), "num_attention_heads x head_dim is 3 x 64"),
        (dict(config_json={"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}), "rope scaling 'yarn'"),
        (dict(tokenizer_json={"model": {"type": "Unigram", "vocab": []}}), "tokenizer of type Unigram"),
        (dict(tokenizer_json={"model": {"type": "BPE", "vocab": {"a": -1}}}), "the id of a is -1"),
        (dict(tokenizer_json={"model": {"type": "BPE", "vocab": {"a": 1 << 22}}}), "the id of a is 4194304"),
        (dict(tokenizer_json={"added_tokens": [5]}), "not an added token"),
        (dict(tokenizer_json={"added_tokens": [{"id": 9999, "content": "x"}]}), "10000 tokens, but the embedding only"),
        (dict(model_safetensors=None), "a file is missing"),
        (dict(model_safetensors=b"1234"), "has only 4 bytes"),
        (dict(model_safetensors=b"\xff" * 100), "claims"),
        (dict(model_safetensors=(5).to_bytes(8, "little") + b"hello"), "not JSON"),
    ],
)
def test_a_spoilt_folder_is_refused_by_name(folder, tmp_path, changes, words):
    with pytest.raises((CannotConvert, UnsupportedArchitecture), match=words):
        from_folder(spoilt(folder, tmp_path, **changes))


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}, "is U8; supported"),
        ({"dtype": [], "shape": [8], "data_offsets": [0, 8]}, "described as"),
        ({"dtype": "F16", "shape": [], "data_offsets": [0, 2]}, "dimensions"),
        ({"dtype": "F16", "shape": [4], "data_offsets": [0, 6]}, "takes 6 bytes"),
        ({"dtype": "F16", "shape": [1 << 47], "data_offsets": [0, 8]}, "takes 8 bytes"),
        ({"dtype": "F16", "shape": [4], "data_offsets": [8, 0]}, "described as"),
        ({"dtype": "F16", "shape": [4], "data_offsets": [0, 1 << 40]}, "described as"),
        ({"dtype": "F16", "shape": [-4], "data_offsets": [0, 8]}, "described as"),
        ({"dtype": "F16", "shape": 4}, "described as"),
        (5, "described as"),
        ({"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}, "does not belong to a llama model"),
    ],
)
def test_a_tensor_that_is_none_is_refused_by_name(folder, tmp_path, entry, words):
    header = json.dumps({"model.layers.0.block_sparse_moe.gate.weight": entry}).encode()
    raw = len(header).to_bytes(8, "little") + header + bytes(8)
    with pytest.raises(CannotConvert, match=words) as caught:
        from_folder(spoilt(folder, tmp_path, model_safetensors=raw))
    assert "block_sparse_moe" in str(caught.value)


def test_any_byte_may_be_wrong(folder, tmp_path):
    """Every header gives a model or one of our own errors."""
    raw, rng, outcomes = (folder / "model.safetensors").read_bytes(), np.random.default_rng(0), set()
    header_end = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(150):
        changed = bytearray(raw)
        for at in rng.integers(0, header_end, rng.integers(1, 4)):
            changed[at] = rng.integers(0, 256)
        try:
            from_folder(spoilt(folder, tmp_path, model_safetensors=bytes(changed)))
            outcomes.add("model")
        except CannotConvert:
            outcomes.add("refused")
    assert "refused" in outcomes


ODD = (
    None,
    True,
    0,
    -1,
    1,
    2**40,
    1e300,
    float("inf"),
    -0.5,
    "",
    "x" * 50,
    [],
    [1],
    [None],
    {},
    {"a": 1},
    {"type": "Sequence"},
    [[["a"]]],
    "\ud800",
    {"content": 5},
    {"type": "linear"},
)


def _places(value, path=()):
    """Paths to all values in a JSON document; to some in long lists."""
    yield path
    for key in value if isinstance(value, dict) else range(min(len(value), 3)) if isinstance(value, list) else ():
        yield from _places(value[key], (*path, key))


def _put(value, path, odd):
    if not path:
        return odd
    value = copy.copy(value)
    value[path[0]] = _put(value[path[0]], path[1:], odd)
    return value


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_value_of_a_json_file_may_be_odd(tmp_path, architecture):
    """All contents give a model or one of our own errors."""
    rng, outcomes = np.random.default_rng(0), set()
    files = write_folder(
        tmp_path / "folder",
        GGUFFile.open(write_tiny_gguf(tmp_path / "o.gguf", architecture, "f16", num_layers=1)),
        "F16",
    )
    documents = {name: json.loads(path.read_text()) for name, path in files.items() if name.endswith(".json")}
    documents["generation_config.json"] = {"eos_token_id": [1, 2], "bos_token_id": 1}
    documents["added_tokens.json"] = {"<x>": 3}
    documents["config.json"] |= {
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
    }
    documents["tokenizer.json"]["post_processor"] = {
        "type": "Sequence",
        "processors": [{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {}}]}],
    }
    documents["tokenizer_config.json"]["chat_template"] = [{"name": "default", "template": "x"}]
    files |= {name: tmp_path / name for name in documents}
    for name, document in documents.items():
        files[name].write_text(json.dumps(document))
    for name, document in documents.items():
        places = list(_places(document))
        for path in [places[i] for i in rng.permutation(len(places))[:60]]:
            files[name].write_text(json.dumps(_put(document, path, ODD[rng.integers(len(ODD))])))
            try:
                gguf_out.write(from_folder(files), {}, lambda piece: None, lambda done: None)
                outcomes.add("model")
            except (CannotConvert, UnsupportedArchitecture):
                outcomes.add("refused")
        files[name].write_text(json.dumps(document))
    assert outcomes == {"model", "refused"}


def test_values_that_no_half_holds_are_named(tmp_path):
    with pytest.raises(CannotConvert, match="tensor x has a value of 70000, too large for float16"):
        gguf_out.encode(np.array([[1.0, 7e4]], np.float32), FORMATS[1].type, "x")
    with pytest.raises(CannotConvert, match="tensor x has values that are not finite"):
        gguf_out.encode(np.array([[np.nan]], np.float32), FORMATS[0].type, "x")


def test_a_file_that_is_missing_is_noticed(tmp_path):
    files = write_folder(
        tmp_path / "folder", GGUFFile.open(write_tiny_gguf(tmp_path / "o.gguf", "llama", "f16")), "F16", files=2
    )
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        with pytest.raises(
            CannotConvert, match="layer . lacks .*a safetensors file is missing|a file is missing, provide all"
        ):
            from_folder({key: path for key, path in files.items() if key != name})
    files["config.json"].write_text(
        files["config.json"].read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1')
    )
    with pytest.raises(CannotConvert, match="num_hidden_layers is 1, but the safetensors files have layer 2"):
        from_folder(files)


def test_a_weight_that_comes_twice_is_refused(folder, tmp_path):
    files = spoilt(folder, tmp_path)
    with pytest.raises(CannotConvert, match="duplicate tensor name"):
        from_folder(files | {"model-2.safetensors": files["model.safetensors"]})


def test_gemma3_models_that_would_answer_wrongly_are_refused(tmp_path):
    gguf = GGUFFile.open(write_tiny_gguf(tmp_path / "original.gguf", "gemma3", "f16"))
    write_folder(tmp_path / "folder", gguf)
    for change in (
        {"layer_types": ["full_attention"] * 2},
        {"rope_local_base_freq": 5000.0},
        {"layer_types": None, "sliding_window_pattern": 2},
    ):
        with pytest.raises(CannotConvert, match="this gemma3 model is not supported"):
            from_folder(spoilt(tmp_path / "folder", tmp_path, config_json=change))
