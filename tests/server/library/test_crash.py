"""The store survives a crash at any instant with complete models only, even if other programs use it as well."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from live_server import LiveServer
from manage_models import make_model
from places import ROOT, SUPPORT
from store_checks import check_whole
from tiny_gguf import write_tiny_gguf

from vkbackend.errors import GGUFError
from vkbackend.server.errors import ApiError
from vkbackend.server.library import create, staging
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.store import ModelNotFound, Store, StoreError
from vkbackend.server.wire import native

PROGRAM = SUPPORT / "change_store.py"
KILLS = 10


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    return [
        write_tiny_gguf(
            folder / f"{seed}.gguf", "llama", "f16", num_layers=1, seed=seed, fields={"general.file_type": 1}
        )
        for seed in range(2)
    ]


def start(store, seed, files):
    return subprocess.Popen(
        [sys.executable, PROGRAM, store.root, str(seed), *files],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_at_any_instant_it_holds_whole_models(tmp_path, files, monkeypatch):
    store, rng, seen = Store(tmp_path / "store"), random.Random(7), []
    for kill in range(KILLS):
        process = start(store, kill, files)
        try:
            process.stdout.readline()  # it has begun
            time.sleep(rng.random() * 0.25)
        finally:
            process.kill()
            _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        seen.append(check_whole(store))
    assert max(seen) > 1
    # The next start clears away what is left over; everything else is in use.
    monkeypatch.setattr(staging, "GRACE_SECONDS", -1)
    monkeypatch.setattr("vkbackend.server.library.store.UNUSED_SECONDS", -1)
    store.prune()
    check_whole(store)
    used = set().union(*(model.manifest.digests for model in store.list()))
    assert {path.name for path in store.blobs.iterdir()} == {digest.replace(":", "-") for digest in used}
    assert [path.name for path in store.staging.folder.iterdir()] == ["lock"]


def test_ended_before_each_of_its_file_operations_it_holds_whole_models(tmp_path, files):
    """At every point between two changes on disk, for creating, replacing, quantizing, copying and deleting."""
    program = SUPPORT / "crash_points.py"
    done = subprocess.run(
        [sys.executable, program, tmp_path, files[0]], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 60


def test_two_programs_at_once(tmp_path, files):
    store = Store(tmp_path / "store")
    processes = [start(store, seed, files) for seed in (100, 101)]
    try:
        deadline, rounds = time.monotonic() + 3, 0
        while time.monotonic() < deadline:
            with store.lock:  # between two changes, nothing else
                check_whole(store)
            rounds += 1
            time.sleep(0.02)
    finally:
        for process in processes:
            process.kill()
        output = [process.communicate() for process in processes]
    assert rounds > 3 and [process.returncode for process in processes] == [-signal.SIGKILL] * 2, output
    assert min(steps.count("\n") for steps, _ in output) > 3
    check_whole(store)


def test_the_lock_goes_with_its_process(tmp_path):
    store = Store(tmp_path / "store")
    program = (
        "import sys, time; from vkbackend.server.library.store import Store; store = Store(sys.argv[1]); "
        "store.lock.__enter__(); "
        "print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, store.root], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    held = threading.Event()

    def take():
        with store.lock, store.lock:  # as often as a thread likes
            held.set()

    try:
        assert process.stdout.readline() == "held\n"
        thread = threading.Thread(target=take)
        thread.start()
        assert not held.wait(0.3)
    finally:
        process.kill()
        process.communicate()
    assert held.wait(5)
    thread.join()


def test_an_upload_that_somebody_writes_is_not_taken_for_left_behind(tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    monkeypatch.setattr(staging, "GRACE_SECONDS", -1)
    program = (
        "import sys, time; from vkbackend.server.library.store import Store; upload = Store(sys.argv[1]).upload(); "
        "upload.write(b'x'); upload.path; "
        "print('writing', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, store.root], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "writing\n"
        _ = store.blobs
        store.prune()
        assert len(list(store.staging.folder.glob(".upload-*"))) == 1
    finally:
        process.kill()
        process.communicate()
    store.prune()
    assert not list(store.staging.folder.glob(".upload-*"))


def test_a_server_clears_at_its_start_what_a_crash_left(tmp_path):
    store = Store(tmp_path / "store")
    make_model(store, "m", tmp_path)
    left, (unused, _), kept = (
        store.staging.folder / ".upload-left",
        store.add_blob(b"of no model"),
        store.get("m").manifest.digests,
    )
    left.write_bytes(b"half")
    for path in (left, store.blob_path(unused)):
        os.utime(path, (time.time() - 3 * 86400,) * 2)
    with LiveServer(store.root):
        deadline = time.monotonic() + 10
        while left.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    assert not left.exists() and all(store.blob_path(digest).exists() for digest in kept)
    assert store.blob_path(unused).exists()  # it came into its place only now: its time of change tells


# --- an Ollama beside us, which knows nothing of our lock


def start_of_ollama(store):
    """What Ollama does at start: remove unreferenced blobs, and files in blobs/ with other names."""
    used = set().union(*(store.manifest(name).digests for name in store.all_names()), set())
    for path in store.blobs.iterdir():
        if path.name.replace("-", ":") not in used:
            path.unlink()


def test_blobs_that_vanish_before_the_manifest_names_them_come_back(tmp_path, files, monkeypatch):
    store = Store(tmp_path / "store")
    write_manifest = store.write_manifest

    def write_a_moment_late(*arguments):
        start_of_ollama(store)
        write_manifest(*arguments)

    with store.upload() as upload:
        upload.write(files[0].read_bytes())
        digest = upload.finish()
        monkeypatch.setattr(store, "write_manifest", write_a_moment_late)
        ask = native.CreateRequest(
            model="m", files={"m.gguf": digest}, quantize="q8_0", system="Be kind.", license=["MIT"]
        )
        create.create(store, ask, parse_name("m"), lambda *_, **__: None)
    check_whole(store)
    monkeypatch.setattr(store, "write_manifest", write_manifest)
    start_of_ollama(store)
    assert check_whole(store) == 1


def test_an_upload_outlives_the_start_of_an_ollama(tmp_path):
    store = Store(tmp_path / "store")
    with store.upload() as upload:
        upload.write(b"half, ")
        start_of_ollama(store)
        upload.write(b"whole")
        assert store.blob_path(upload.finish()).read_bytes() == b"half, whole"


def test_weights_that_vanish_for_good_are_named(tmp_path, monkeypatch):
    """Another program deletes the weights of the base model in the meantime."""
    store = Store(tmp_path / "store")
    make_model(store, "base", tmp_path)
    digest, write_manifest = store.get("base").model_layer.digest, store.write_manifest

    def write_a_moment_late(*arguments):
        store.blob_path(digest).unlink()
        write_manifest(*arguments)

    monkeypatch.setattr(store, "write_manifest", write_a_moment_late)
    ask = native.CreateRequest(model="m", from_="base", system="x")
    with pytest.raises(ApiError, match=f"blob {digest} does not exist"):
        create.create(store, ask, parse_name("m"), lambda status: None)


# --- paths that lead elsewhere

SECRET = "of no concern to anybody"
TRICKS = (
    "../secret",
    "../../secret",
    "..",
    "/etc/passwd",
    "a/../../secret",
    "%2e%2e/secret",
    "..%2fsecret",
    "m\0",
    "sha256-" + "0" * 63 + "/",
    "~/secret",
    "C:\\secret",
    "....//secret",
    "./m",
    "m:../x",
    "m:..",
    "x/../m",
    "http://../../secret",
    "m@sha256:" + "0" * 64,
)


@pytest.mark.parametrize("trick", TRICKS)
def test_no_text_in_a_request_leads_out_of_the_store(tmp_path, trick):
    (tmp_path / "secret").write_text(SECRET)
    store = Store(tmp_path / "store")
    make_model(store, "base", tmp_path)
    inside = {path for path in tmp_path.rglob("*")}
    for use in (
        lambda: store.get(trick),
        lambda: store.blob_path(trick),
        lambda: store.delete(parse_name(trick)),
        lambda: store.read_json(trick),
        lambda: run(store, model=trick, from_="base"),
        lambda: run(store, model="m", from_=trick),
        lambda: run(store, model="m", files={trick: "sha256:" + "0" * 64}),
        lambda: run(store, model="m", files={"m.gguf": trick}),
        lambda: run(store, model="m", files={"config.json": trick, "model.safetensors": trick}),
    ):
        try:
            use()
        except (ApiError, StoreError, ModelNotFound, ValueError, GGUFError) as error:
            assert SECRET not in str(error)
        except Exception as error:
            assert type(error).__name__ in ("InvalidDigest", "InvalidName"), error
    outside = {path for path in tmp_path.rglob("*") if store.root not in path.parents and path != store.root}
    assert outside <= inside and (tmp_path / "secret").read_text() == SECRET
    assert set(os.listdir(store.root)) == {"manifests", "blobs", ".vkbackend"}


def run(store, **request):
    ask = native.CreateRequest(**request)
    name = create.checked_name(ask)
    create.create(store, ask, name, lambda *_, **__: None)
    store.delete(name)
