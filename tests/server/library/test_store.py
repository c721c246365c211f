"""The model store on disk: an existing library is used in place, changes are atomic, bad input does no harm."""

import errno
import fcntl
import hashlib
import json
import os
import time

import pytest
from manage_models import blobs, make_model
from recorded import check, load

from vkbackend.server.library.model import DigestMismatch, InvalidDigest, InvalidName, ModelNotFound, StoreError
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.store import Store
from vkbackend.server.loading.engine_loader import EngineLoader
from vkbackend.server.prompts.gotemplate import Template
from vkbackend.server.prompts.marks import thinking_tags
from vkbackend.server.wire.options import Options


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
