"""The model store on disk: an existing library is used in place, changes are atomic, bad input does no harm."""

import errno
import fcntl
import hashlib
import json
import os
import threading
import time

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from manage_models import make_model, write_gguf
from manage_world import talk
from recorded import check, load

from vkbackend.errors import GGUFError
from vkbackend.server.errors import ApiError
from vkbackend.server.library import create
from vkbackend.server.library.describe import show
from vkbackend.server.library.model import DigestMismatch, InvalidDigest, InvalidName, ModelNotFound, StoreError
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.store import Store
from vkbackend.server.loading.engine_loader import EngineLoader
from vkbackend.server.prompts.gotemplate import Template
from vkbackend.server.prompts.marks import thinking_tags
from vkbackend.server.wire import native
from vkbackend.server.wire.options import Options


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def blobs(store):
    return {path.name for path in store.blobs.iterdir()}


def build(store, **request):
    """Create a model; the statuses that /api/create would report."""
    statuses, ask = [], native.CreateRequest(**request)
    create.create(store, ask, create.checked_name(ask), statuses.append)
    return statuses


def write_library(root):
    """A library as Ollama writes it, made byte by byte."""
    (root / "blobs").mkdir(parents=True)

    def blob(contents):
        digest = hashlib.sha256(contents).hexdigest()
        (root / "blobs" / f"sha256-{digest}").write_bytes(contents)
        return {"digest": f"sha256:{digest}", "size": len(contents)}

    kind = "application/vnd.ollama.image."
    config = blob(
        b'{"model_format":"gguf","model_family":"llama","model_families":["llama"],'
        b'"model_type":"7B","file_type":"Q4_0"}'
    )
    layers = [
        {"mediaType": kind + "model", **blob(b"GGUF...")},
        {"mediaType": kind + "template", **blob(b"T{{ .Prompt }}")},
        {"mediaType": kind + "system", **blob(b"Be kind.")},
        {"mediaType": kind + "license", **blob(b"MIT")},
        {"mediaType": kind + "params", **blob(b'{"stop":["</s>"],"top_k":7}')},
        {"mediaType": kind + "messages", **blob(b'[{"role":"user","content":"q"}]')},
    ]
    place = root / "manifests" / "registry.ollama.ai" / "library" / "Old" / "7b"
    place.parent.mkdir(parents=True)
    place.write_text(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **config},
                "layers": layers,
            }
        )
    )
    return place


def test_an_existing_library_is_read_in_place(tmp_path):
    place = write_library(tmp_path)
    model = Store(tmp_path).get("old:7B")  # names fold case
    assert (model.name, model.template, model.system, model.licenses) == (
        "Old:7b",
        "T{{ .Prompt }}",
        "Be kind.",
        ["MIT"],
    )
    assert (model.parameters, model.messages) == ({"stop": ["</s>"], "top_k": 7.0}, [{"role": "user", "content": "q"}])
    assert model.gguf_path.read_bytes() == b"GGUF..." and model.config["model_type"] == "7B"
    assert model.digest == hashlib.sha256(place.read_bytes()).hexdigest()
    assert model.size == sum(path.stat().st_size for path in (tmp_path / "blobs").iterdir())


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"{",
        b"[]",
        b'{"layers":5}',
        b'{"layers":[{"digest":"../../x"}]}',
        b'{"config":{"digest":"sha256:1"}}',
        b"\xff\xfe",
        b'{"layers":[{"size":1e999}]}',
        b'{"layers":[{"size":1.5}]}',
        b'{"layers":[{"size":-1}]}',
        b'{"layers":[{"size":NaN}]}',
        b'{"layers":[{"size":true}]}',
        b'{"layers":[{"mediaType":{}}]}',
        b'{"layers":[{"from":5}]}',
        b'{"layers":"ab"}',
        b'{"config":[1]}',
        b"[" * 100_000,
        b'{"layers":' + b"[" * 100_000,
        b"1" * 100_000,
    ],
)
def test_a_damaged_manifest_is_named_and_keeps_all_blobs(tmp_path, contents):
    place = write_library(tmp_path)
    store = Store(tmp_path)
    make_model(store, "m", tmp_path)
    place.write_bytes(contents)
    assert [model.name for model in store.list()] == ["m:latest"]
    with pytest.raises(StoreError, match="Old:7b is damaged"):
        store.get("Old:7b")
    before = blobs(store)
    store.delete(parse_name("m"))  # a blob might belong to the damaged one
    assert blobs(store) == before
    with pytest.raises(ModelNotFound):
        store.get("m")


def test_delete_removes_what_nothing_else_uses(store, tmp_path):
    make_model(store, "a", tmp_path, {"system": "A."})
    make_model(store, "b", tmp_path, {"system": "B."})
    gguf = store.get("a").gguf_path
    store.delete(parse_name("A"))
    assert gguf.exists() and store.get("b").system == "B." and len(blobs(store)) == 3  # weights, system text, config
    store.delete(parse_name("b"))
    assert blobs(store) == set() and not list(store.manifests.rglob("*"))  # folders go with their last model
    with pytest.raises(ModelNotFound, match="model 'b' not found"):
        store.get("b")


def test_copy_shares_blobs_and_replaces_what_was_there(store, tmp_path):
    make_model(store, "a", tmp_path, {"system": "A."})
    make_model(store, "b", tmp_path, {"system": "B."})
    store.copy(parse_name("a"), parse_name("user/b:x"))
    store.copy(parse_name("a"), parse_name("B"))
    assert [store.get(name).system for name in ("user/b:x", "b")] == ["A.", "A."] and len(blobs(store)) == 3
    with pytest.raises(ModelNotFound):
        store.copy(parse_name("none"), parse_name("b"))
    assert store.get("b").digest == store.get("a").digest


def test_an_upload_counts_only_when_whole_and_true(store):
    digest = "sha256:" + hashlib.sha256(b"hello").hexdigest()
    with store.upload() as upload:
        upload.write(b"hel")  # cut off here
    with pytest.raises(DigestMismatch), store.upload() as upload:
        upload.write(b"hellO")
        upload.finish(digest)
    assert blobs(store) == set()
    with store.upload() as upload:
        upload.write(b"hello")
        assert upload.finish(digest.replace(":", "-").upper().replace("SHA", "sha")) == digest
    assert store.blob_path(digest).read_bytes() == b"hello"


def test_what_a_crash_left_goes_at_the_next_start(store, tmp_path):
    make_model(store, "m", tmp_path)
    kept = blobs(store)
    with store.upload() as upload:
        left = upload.path.with_name(".upload-left")
        left.write_bytes(b"x")
        fresh, foreign = upload.path.with_name(".upload-fresh"), store.blobs / "sha256-1234-partial"
        fresh.write_bytes(b"x")
        foreign.write_bytes(b"x")
        for path in (left, upload.path, foreign):
            os.utime(path, (time.time() - 3600,) * 2)
        store.prune()
        # One that is being written, one that was made a moment ago, and what is not ours stay.
        assert not left.exists() and upload.path.exists() and fresh.exists() and foreign.exists()
    assert blobs(store) == kept | {foreign.name}


def test_pruning_removes_only_old_unreferenced_blobs(store, tmp_path, monkeypatch):
    make_model(store, "m", tmp_path)
    kept = blobs(store)
    digest, _ = store.add_blob(b"of no model")
    store.prune()
    assert blobs(store) == kept | {digest.replace(":", "-")}  # on its way into one, perhaps
    monkeypatch.setattr("vkbackend.server.library.store.UNUSED_SECONDS", -1)
    store.prune()
    assert blobs(store) == kept
    digest, _ = store.add_blob(b"of no model")
    (store.manifests / "registry.ollama.ai/library/m/other").write_bytes(b"{")
    store.prune()  # a manifest that cannot be read might name it
    assert blobs(store) == kept | {digest.replace(":", "-")}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "g" * 64,
        "md5:" + "a" * 64,
        "sha256:../" + "a" * 61,
        "sha256:" + "a" * 64 + "\n",
    ],
)
def test_a_text_that_is_no_digest_never_becomes_a_path(store, text):
    with pytest.raises(InvalidDigest):
        store.blob_path(text)


def test_names_that_are_none(store):
    for text in ("", "bad name", "../../etc", "a/b/c/d"):
        with pytest.raises(InvalidName):
            store.get(text)


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


def test_a_new_name_takes_the_case_of_the_parts_that_are_known(store, tmp_path):
    """As in the original, the tags of one model stay together, regardless of the case of its name."""
    make_model(store, "Llama:7B", tmp_path)
    store.copy(parse_name("Llama:7B"), parse_name("hf.co/Someone/x:Q8_0"))
    for source, written, wanted in (
        ("llama:7b", "LLAMA:8b", "Llama:8b"),
        ("llama:8b", "someone/LLAMA:q8_0", "Someone/Llama:Q8_0"),
        ("llama:8b", "X:other", "x:other"),
        ("llama:8b", "llama:latest", "Llama:latest"),
    ):
        store.copy(parse_name(source), parse_name(written))
        assert store.get(written).name == wanted
    with pytest.raises(ModelNotFound, match="model 'LLAMA:9b' not found"):
        store.get("LLAMA:9b")


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
        (dict(from_="base", adapters={"a.gguf": "x"}), 400, "adapters are not supported yet"),
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


@pytest.mark.parametrize("contents", [b'{"layers":[{"size":1e999}]}', b"[" * 100_000])
def test_a_damaged_manifest_can_be_deleted_and_replaced(tmp_path, contents):
    place = write_library(tmp_path)
    store = Store(tmp_path)
    place.write_bytes(contents)
    store.delete(parse_name("old:7b"))
    assert not place.exists() and store.all_names() == []
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(contents)
    make_model(store, "old:7b", tmp_path)
    assert [model.name for model in store.list()] == ["Old:7b"]


@pytest.mark.parametrize(
    "contents",
    [
        b"[" * 100_000,
        b"{",
        b'{"model_family":1e999}',
        b'{"model_families":5}',
        b'{"model_families":[[]]}',
        b'{"model_format":{}}',
        b'{"capabilities":7}',
        b'{"file_type":NaN}',
    ],
)
def test_a_damaged_config_is_named(tmp_path, contents):
    place = write_library(tmp_path)
    digest = f"sha256:{hashlib.sha256(contents).hexdigest()}"
    (tmp_path / "blobs" / digest.replace(":", "-")).write_bytes(contents)
    place.write_text(json.dumps(json.loads(place.read_text()) | {"config": {"digest": digest}}))
    with pytest.raises(StoreError, match="model Old:7b: .*pull or create the model again"):
        _ = Store(tmp_path).get("old:7b").config


def test_loading_a_model_whose_file_is_gone_says_which(store, tmp_path):
    make_model(store, "m", tmp_path)
    stored = store.get("m")
    stored.gguf_path.unlink()
    with pytest.raises(
        StoreError, match=rf"model m:latest: its file .*{stored.gguf_path.name} is gone; pull or create the model again"
    ):
        EngineLoader().load(stored, Options.defaults())


def test_a_model_whose_blob_is_gone_says_so(store, tmp_path):
    make_model(store, "m", tmp_path, {"system": "S."})
    layer = next(layer for layer in store.get("m").manifest.layers if layer.media_type.endswith("system"))
    store.blob_path(layer.digest).unlink()
    with pytest.raises(StoreError, match="pull or create the model again"):
        _ = store.get("m").system


def test_thinking_tags_of_templates():
    check(
        load("thinking_tags"),
        lambda vector: (
            list(thinking_tags(Template.parse(vector["template"]))),
            [vector["opening_tag"], vector["closing_tag"]],
        ),
    )


@pytest.mark.parametrize(
    "number, advice", [(errno.ENOSPC, "remove models you do not need"), (errno.EROFS, "give this user write access")]
)
def test_what_the_system_refuses_is_said_with_what_to_do(store, tmp_path, monkeypatch, number, advice):
    """On a full disk or in a read-only folder; no partial files are left."""
    make_model(store, "m", tmp_path)
    before, name = sorted(path.name for path in store.blobs.iterdir()), parse_name("m")
    fsync = os.fsync

    def refusing(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refusing)
    with store.upload() as upload:
        upload.write(b"text")
        for change in (
            upload.sync,
            upload.finish,
            lambda: store.add_blob(b"text"),
            lambda: store.copy(name, parse_name("other")),
        ):
            with pytest.raises(StoreError, match=f"{store.root} cannot be changed.*{advice}"):
                change()
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(fcntl, "flock", lambda *_: refusing(0))
    for change in (lambda: store.delete(name), store.lock.__enter__, store.prune):
        with pytest.raises(StoreError, match=advice):
            change()
    monkeypatch.undo()
    assert [model.name for model in store.list()] == ["m:latest"] and sorted(
        path.name for path in store.blobs.iterdir()
    ) == before
    assert not list(store.staging.folder.glob(".upload-*"))
    store.delete(name)  # the lock is free
