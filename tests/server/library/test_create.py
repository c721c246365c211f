"""Creating models in a store, and what `show` tells of them."""

import hashlib
import threading

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from manage_models import blobs, build, make_model, write_gguf
from manage_world import talk
from tiny_adapter import write_adapter

from vkbackend.errors import GGUFError
from vkbackend.server.errors import ApiError
from vkbackend.server.library import create
from vkbackend.server.library.describe import show
from vkbackend.server.library.model import ModelNotFound
from vkbackend.server.library.names import parse_name
from vkbackend.server.wire import native


def test_create_tells_its_steps_and_detects_the_template(store, tmp_path):
    jinja = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
        "+ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    digest, _ = store.add_blob(write_gguf(tmp_path / "m.gguf", chat_template=jinja).read_bytes())
    statuses = build(store, model="m", files={"m.gguf": digest})
    assert statuses[:3] == ["parsing GGUF", f"using existing layer {digest}", "using autodetected template chatml"]
    assert statuses[3].startswith(("creating new layer sha256:", "using existing layer sha256:")) and statuses[4:] == [
        "writing manifest",
        "success",
    ]
    model = store.get("m")
    assert "<|im_start|>" in model.template and "<|im_end|>" in model.parameters["stop"]
    assert model.config["model_family"] == "llama" and model.config["model_type"] == "3"


def test_create_over_a_base_replaces_and_adds(store, tmp_path):
    make_model(
        store,
        "base",
        tmp_path,
        {"system": "One.", "parameters": {"top_k": 3.0, "seed": 1.0}, "messages": [{"role": "user", "content": "q"}]},
    )
    build(store, model="next", from_="base", system="Two.", parameters={"top_k": 9.0}, license=["L1", "L2"])
    model = store.get("next")
    assert (model.system, model.parameters, model.licenses, model.parent) == (
        "Two.",
        {"top_k": 9.0, "seed": 1.0},
        ["L1", "L2"],
        "base:latest",
    )
    assert model.messages == [{"role": "user", "content": "q"}]
    build(store, model="NEXT", from_="next", system="Three.", license="L3")  # over itself, whatever the case
    assert [found.name for found in store.list() if "next" in found.name.lower()] == ["next:latest"]
    assert store.get("next").licenses == ["L1", "L2", "L3"]


def test_noprune_keeps_what_a_new_create_leaves_unused(store, tmp_path, monkeypatch):
    make_model(store, "m", tmp_path, {"system": "One."})
    monkeypatch.setenv("OLLAMA_NOPRUNE", "1")
    before = blobs(store)
    build(store, model="m", from_="m", system="Two.")
    assert before < blobs(store)
    monkeypatch.delenv("OLLAMA_NOPRUNE")
    build(store, model="m", from_="m", system="Three.")
    assert not store.blob_path(f"sha256:{hashlib.sha256(b'Two.').hexdigest()}").exists()


@pytest.mark.parametrize(
    "request_, status, text",
    [
        (dict(from_="nothing-here"), 404, "not found"),
        (dict(from_="bad name"), 400, "invalid model name"),
        (dict(), 400, "neither 'from' or 'files'"),
        (dict(files={}), 400, "unknown type"),
        (dict(files={"m.gguf": "sha256:" + "0" * 64}), 500, "upload it first"),
        (dict(files={"m.safetensors": "sha256:" + "0" * 64}), 500, "upload it first"),
        (dict(from_="base", template="{{ if }}"), 400, "template error: "),
        (dict(from_="base", adapters={"a.gguf": "x"}), 400, "invalid digest format"),
        (dict(from_="base", adapters={"a.gguf": "sha256:" + "0" * 64}), 400, "open .*: no such file or directory"),
        (dict(from_="base", adapters={}), 400, "unknown type"),
        (dict(from_="base", quantize="q8_0"), 500, "only supported for F16 and F32 models"),
        (dict(from_="base", quantize="q9"), 500, "unsupported quantization type Q9"),
        (dict(from_="base", license=5.0), 500, "license must be"),
        (dict(from_="base", remote_host="https://x"), 400, "remote models are not supported"),
    ],
)
def test_what_create_refuses_changes_nothing(store, tmp_path, request_, status, text):
    make_model(store, "base", tmp_path)
    before = blobs(store)
    with pytest.raises(ApiError, match=text) as caught:
        build(store, model="m", **request_)
    assert (
        caught.value.status == status
        and [model.name for model in store.list()] == ["base:latest"]
        and blobs(store) == before
    )


def test_create_adds_adapters(store, tmp_path):
    """GGUF files by their contents, whatever their names are; a model made from one with an adapter keeps it."""
    make_model(store, "base", tmp_path)
    first, second = (
        store.add_blob(write_adapter(tmp_path / f"{alpha}.gguf", {}, alpha=alpha).read_bytes())[0]
        for alpha in (1.0, 2.0)
    )
    statuses = build(store, model="one", from_="base", adapters={"../x.bin": first})
    assert statuses[0] == "parsing GGUF" and f"using existing layer {first}" in statuses
    build(store, model="two", from_="one", adapters={"second.gguf": second})
    assert [path.name for path in store.get("two").adapter_paths] == [
        digest.replace(":", "-") for digest in (first, second)
    ]
    assert store.get("two").config["model_families"] == ["llama"] * 3
    assert f"ADAPTER {store.blob_path(second)}" in show(store.get("two"), False).modelfile
    with pytest.raises(ApiError, match="^only one adapter is currently supported$") as caught:
        build(store, model="three", from_="base", adapters={"a.gguf": first, "b.gguf": second})
    assert caught.value.status == 400


def test_create_tells_models_from_adapters(store, tmp_path):
    make_model(store, "base", tmp_path)
    model, adapter, unmarked = (
        store.add_blob(path.read_bytes())[0]
        for path in (
            write_gguf(tmp_path / "model.gguf"),
            write_adapter(tmp_path / "adapter.gguf", {}),
            write_adapter(tmp_path / "unmarked.gguf", {}, fields={"general.type": "model"}),
        )
    )
    for request, words in (
        ({"from_": "base", "adapters": {"model.gguf": model}}, "model.gguf is a model, not an adapter"),
        ({"files": {"adapter.gguf": adapter}}, "an adapter without its model"),
    ):
        with pytest.raises(ApiError, match=words) as caught:
            build(store, model="m", **request)
        assert caught.value.status == 400
    build(store, model="m", files={"model.gguf": model, "adapter.gguf": adapter})
    assert len(store.get("m").adapter_paths) == 1
    build(store, model="m", from_="base", adapters={"unmarked.gguf": unmarked})  # loading it tells what it is
    assert len(store.get("m").adapter_paths) == 1


@pytest.mark.parametrize("path", ["/abs.gguf", "../up.gguf", "a//b.gguf", "", "a/./b.gguf", "a/"])
def test_file_names_must_be_relative(path):
    with pytest.raises(ApiError, match="file path must be relative"):
        create.checked_name(native.CreateRequest(model="m", files={path: "x"}))


def test_damaged_ggufs_are_refused(store, tmp_path):
    whole = write_gguf(tmp_path / "m.gguf").read_bytes()
    for contents in (b"GGUF", whole[:40], whole[:-40], whole[:4] + b"\xff" * 20 + whole[24:]):
        digest, _ = store.add_blob(contents)
        with pytest.raises(GGUFError):
            build(store, model="m", files={"m.gguf": digest})
    assert store.list() == []


def test_creates_and_deletes_side_by_side_leave_a_sound_store(store, tmp_path):
    digest, _ = store.add_blob(write_gguf(tmp_path / "m.gguf").read_bytes())
    build(store, model="keeper", files={"m.gguf": digest}, system="Same.")
    failures = []

    def work(number):
        for _ in range(8):
            try:
                build(store, model=f"m{number % 2}", from_="keeper", system=f"Text {number}.")
                store.list()
                store.delete(parse_name(f"m{number % 2}"))
            except ModelNotFound:
                pass  # the other one was quicker
            except Exception as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for model in store.list():
        assert all(store.blob_path(each).is_file() for each in model.manifest.digests)
    used = set().union(*(model.manifest.digests for model in store.list()))
    assert {name.replace("-", ":", 1) for name in blobs(store)} == used and store.get("keeper").system == "Same."


def test_show_leaves_arrays_out_unless_verbose(store, tmp_path):
    make_model(store, "m", tmp_path)
    model = store.get("m")
    assert show(model).model_info["tokenizer.ggml.tokens"] is None
    assert show(model, verbose=True).model_info["tokenizer.ggml.tokens"] == ["a", "b"]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_show_gives_null_for_metadata_that_json_cannot_hold(store, tmp_path, number):
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", number)
    writer.add_float64("llama.rope.freq_base", number)
    writer.add_float64("llama.rope.scaling.factor", 1e300)
    writer.add_array("llama.some_numbers", [1.0, float(number), 2.5])
    writer.add_tensor("token_embd.weight", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    digest, _ = store.add_blob((tmp_path / "m.gguf").read_bytes())
    build(store, model="m", files={"m.gguf": digest})

    async def conversation(client):
        async with client.post("/api/show", json={"model": "m", "verbose": True}) as answer:
            return answer.status, (await answer.json())["model_info"]

    status, info = talk(store, conversation)
    assert status == 200 and info["llama.rope.scaling.factor"] == 1e300
    assert info["llama.attention.layer_norm_rms_epsilon"] is None and info["llama.rope.freq_base"] is None
    assert info["llama.some_numbers"] == [1, None, 2.5]


def test_tensors_show_as_the_types_that_ollama_names(store, tmp_path):
    """MXFP4 has two numbers: ggml's, and Ollama's earlier one."""
    path = tmp_path / "m.gguf"
    names_and_types = {}
    for number, name in ((4, "MXFP4"), (39, "MXFP4"), (20, "unknown")):
        writer = GGUFWriter(path, "llama")
        writer.add_tensor(
            "token_embd.weight",
            np.zeros((2, 17 if name == "MXFP4" else 18), np.uint8),
            raw_dtype=GGMLQuantizationType(39 if name == "MXFP4" else number),
        )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        raw = bytearray(path.read_bytes())
        at = raw.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 2 * 8
        raw[at : at + 4] = number.to_bytes(4, "little")
        digest, _ = store.add_blob(bytes(raw))
        build(store, model=f"m{number}", files={"m.gguf": digest})
        [tensor] = show(store.get(f"m{number}")).tensors
        names_and_types[number] = (tensor.type, tensor.shape)
    assert names_and_types == {4: ("MXFP4", [32, 2]), 39: ("MXFP4", [32, 2]), 20: ("unknown", [32, 2])}
