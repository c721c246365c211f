"""Damaged and unusual stores: odd files, old names, missing folders. Nothing hangs, nothing is lost."""

import json
import logging
import os
import resource
import time

import pytest
from manage_models import make_model
from manage_world import talk

from vkbackend.errors import GGUFError, VkbackendError
from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.library import describe
from vkbackend.server.library.model import MAX_MANIFEST_BYTES
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.store import ModelNotFound, Store, StoreError

LARGE = 5 << 30


def make_pipe(path):
    os.mkfifo(path)


def make_endless(path):
    path.symlink_to("/dev/zero")


def make_folder(path):
    path.mkdir()


def make_large(path):
    path.touch()
    os.truncate(path, LARGE)  # a hole: takes no room on the disk


def make_loop(path):
    path.symlink_to(path)


ODD = [make_pipe, make_endless, make_folder, make_large, make_loop]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    make_model(store, "sound", tmp_path)
    return store


@pytest.fixture(autouse=True)
def little_memory():
    """Reading an endless file fails at once, not when memory runs out."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("make_odd", ODD)
def test_an_odd_entry_among_the_manifests_has_an_error_of_its_own(store, make_odd, caplog):
    place = store.manifests / "registry.ollama.ai/library/dev/latest"
    place.parent.mkdir()
    make_odd(place)
    with pytest.raises(StoreError, match="manifest of dev:latest cannot be read"):
        store.get("dev")
    with caplog.at_level(logging.WARNING):
        assert [model.name for model in store.list()] == ["sound:latest"]
    assert "dev:latest" in caplog.text
    with pytest.raises(StoreError):
        store.copy(parse_name("dev"), parse_name("other"))
    with pytest.raises(StoreError):
        store.manifest_bytes(parse_name("dev"))

    async def conversation(client):
        async with client.post("/api/show", json={"model": "dev"}) as answer:
            assert answer.status == 500 and "cannot be read" in (await answer.json())["error"]
        async with client.get("/api/tags") as answer:
            assert [model["name"] for model in (await answer.json())["models"]] == ["sound:latest"]

    talk(store, conversation)


@pytest.mark.parametrize("make_odd", [make_pipe, make_endless, make_large, make_loop])
def test_an_odd_manifest_keeps_all_blobs_until_it_is_deleted(store, make_odd, monkeypatch):
    monkeypatch.setattr("vkbackend.server.library.store.UNUSED_SECONDS", -1)
    unused = store.blob_path(store.add_blob(b"perhaps of that model")[0])
    place = store.manifests / "registry.ollama.ai/library/dev/latest"
    place.parent.mkdir()
    make_odd(place)
    store.prune()
    assert unused.exists()
    store.delete(parse_name("dev"))
    assert not os.path.lexists(place)
    store.prune()
    assert not unused.exists() and store.get("sound").gguf_path.exists()


def test_a_folder_in_a_manifests_place_is_not_deleted_and_the_error_says_what_to_do(store):
    (store.manifests / "registry.ollama.ai/library/dev/latest").mkdir(parents=True)

    async def conversation(client):
        async with client.delete("/api/delete", json={"model": "dev"}) as answer:
            error = (await answer.json())["error"]
            assert answer.status == 500 and error.endswith(
                "dev/latest is a folder in place of a model's manifest; move or remove it yourself"
            )

    talk(store, conversation)
    with pytest.raises(StoreError, match="move or remove it yourself"):
        store.get("dev")


def test_a_folder_in_a_manifests_place_keeps_no_blobs(store, monkeypatch):
    monkeypatch.setattr("vkbackend.server.library.store.UNUSED_SECONDS", -1)
    unused = store.blob_path(store.add_blob(b"of no model")[0])
    (store.manifests / "registry.ollama.ai/library/dev/backup").mkdir(parents=True)
    store.prune()
    assert not unused.exists()


def test_a_manifest_that_points_nowhere_keeps_all_blobs(store, tmp_path, monkeypatch):
    """The disk of its file may not be mounted."""
    monkeypatch.setattr("vkbackend.server.library.store.UNUSED_SECONDS", -1)
    unused = store.blob_path(store.add_blob(b"perhaps of that model")[0])
    (store.manifests / "registry.ollama.ai/library/sound/other").symlink_to(tmp_path / "not-mounted" / "manifest")
    store.prune()
    assert unused.exists()
    with pytest.raises(ModelNotFound):
        store.get("sound:other")


@pytest.mark.parametrize("size, is_read", [(MAX_MANIFEST_BYTES, True), (MAX_MANIFEST_BYTES + 1, False)])
def test_manifests_are_bounded(store, size, is_read):
    path = store.manifests / "registry.ollama.ai/library/sound/latest"
    path.write_bytes(path.read_bytes().ljust(size))
    if is_read:
        assert store.get("sound").name == "sound:latest"
    else:
        with pytest.raises(StoreError, match="more than the limit of 4 MiB"):
            store.get("sound")


LAYERS = {
    "config": "config",
    "template": "template",
    "system": "system",
    "params": "parameters",
    "license": "licenses",
    "messages": "messages",
}


@pytest.mark.parametrize("make_odd", ODD)
@pytest.mark.parametrize("kind", LAYERS)
def test_an_odd_blob_is_an_error_that_names_the_model(store, kind, make_odd):
    path = store.manifests / "registry.ollama.ai/library/sound/latest"
    digest = "sha256:" + "ab" * 32
    layer = {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": 3}
    document = json.loads(path.read_text())
    document = document | {"config": layer} if kind == "config" else document | {"layers": [layer]}
    path.write_text(json.dumps(document))
    make_odd(store.blob_path(digest))
    with pytest.raises(StoreError, match="model sound:latest: blob sha256-abab.* cannot be read"):
        getattr(store.get("sound"), LAYERS[kind])
    with pytest.raises(StoreError):
        store.read_json(digest)


def test_a_model_with_an_odd_config_is_left_out_of_the_list_with_a_line_in_the_log(store, tmp_path, caplog):
    make_model(store, "odd", tmp_path, {"system": "S."})
    config = store.blob_path(store.get("odd").manifest.config.digest)
    config.unlink()
    make_pipe(config)

    async def conversation(client):
        async with client.get("/api/tags") as answer:
            return [model["name"] for model in (await answer.json())["models"]]

    with caplog.at_level(logging.WARNING):
        assert talk(store, conversation) == ["sound:latest"]
    assert "odd:latest" in caplog.text


@pytest.mark.parametrize("make_odd", ODD)
def test_odd_weights_are_an_error(store, make_odd, tmp_path):
    path = tmp_path / "odd.gguf"
    make_odd(path)
    with pytest.raises((VkbackendError, OSError)):
        GGUFFile.open(path)


@pytest.mark.parametrize("make_odd", ODD)
def test_showing_a_model_with_odd_weights_is_an_error_of_ours(store, make_odd):
    model = store.get(parse_name("sound"))
    assert model.gguf_path is not None
    model.gguf_path.unlink()
    make_odd(model.gguf_path)
    with pytest.raises(VkbackendError):
        describe.show(model)


def test_a_pipe_is_not_waited_for(tmp_path):
    make_pipe(tmp_path / "m.gguf")
    with pytest.raises(GGUFError, match="not a plain file"):
        GGUFFile.open(tmp_path / "m.gguf")


def test_blobs_that_an_old_ollama_wrote_get_todays_names_at_start(store):
    for path in list(store.blobs.iterdir()):
        path.rename(path.with_name(path.name.replace("-", ":", 1)))
    other = store.blobs / "sha256:1234-partial-0"
    other.write_bytes(b"x")

    async def conversation(client):
        async with client.get("/api/tags") as answer:
            assert [model["name"] for model in (await answer.json())["models"]] == ["sound:latest"]
        async with client.post("/api/show", json={"model": "sound"}) as answer:
            assert answer.status == 200

    talk(store, conversation)
    assert not [path.name for path in store.blobs.iterdir() if ":" in path.name]
    assert (store.blobs / "sha256-1234-partial-0").exists()  # a pull that Ollama goes on with


@pytest.mark.parametrize("state", ["missing", "empty", "empty folders", "unreadable", "unreadable below"])
def test_without_manifests_no_blob_is_removed(store, state, caplog, monkeypatch):
    """The disk of the manifests may not be mounted."""
    before = {path.name for path in store.blobs.iterdir()}
    for path in store.blobs.iterdir():
        os.utime(path, (time.time() - 7 * 86400,) * 2)
    monkeypatch.setattr("vkbackend.server.library.store.UNUSED_SECONDS", -1)
    store.manifests.rename(store.root / "elsewhere")
    if state != "missing":
        (store.manifests / ("registry.ollama.ai/library" if state == "empty folders" else "")).mkdir(parents=True)
    if state.startswith("unreadable"):
        refuse_to_list(store.manifests / ("" if state == "unreadable" else "registry.ollama.ai"), monkeypatch)
        (store.manifests / "registry.ollama.ai").mkdir()
    with caplog.at_level(logging.WARNING):
        store.prune()
    assert {path.name for path in store.blobs.iterdir()} == before
    assert "unreferenced blobs" in caplog.text or "no manifests" in caplog.text


def refuse_to_list(folder, monkeypatch):
    """Behave like a folder of another user; tests may run as root, for whom every folder is readable."""
    listdir = os.listdir

    def refusing(path):
        if str(path).rstrip("/") == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr("vkbackend.server.library.store.os.listdir", refusing)


def test_a_folder_of_models_that_cannot_be_read_leaves_the_others_in_use(store, monkeypatch, caplog):
    (store.manifests / "hf.co").mkdir()
    refuse_to_list(store.manifests / "hf.co", monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert [model.name for model in store.list()] == ["sound:latest"]
    assert "hf.co" in caplog.text
    store.copy(parse_name("sound"), parse_name("other"))
    store.delete(parse_name("sound"))
    assert store.get("other").gguf_path.exists()


def test_an_odd_blob_of_no_model_stops_no_pruning(store, monkeypatch):
    monkeypatch.setattr("vkbackend.server.library.store.UNUSED_SECONDS", -1)
    make_folder(store.blobs / ("sha256-" + "0" * 64))
    (store.blobs / ("sha256-" + "1" * 64)).symlink_to("nowhere")
    make_pipe(store.blobs / ("sha256-" + "2" * 64))
    unused = store.blob_path(store.add_blob(b"of no model")[0])
    store.prune()
    assert not unused.exists() and store.get("sound").gguf_path.exists()
