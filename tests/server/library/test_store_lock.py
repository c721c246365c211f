"""The store's lock is held by another program: reading works, changes fail with an explanation after a while."""

import asyncio
import os
import subprocess
import sys
import threading
import time

import filelock
import pytest
from filelock import FileLock
from manage_models import make_model
from manage_world import talk

from vkbackend.server.library import staging
from vkbackend.server.library.model import StoreBusy, StoreError
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.store import Store

SECONDS = 1


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("VKBACKEND_LOCK_TIMEOUT", str(SECONDS))
    store = Store(tmp_path / "store")
    make_model(store, "m", tmp_path)
    return store


@pytest.fixture
def holder(store):
    """Another process holds the lock, like `flock STORE/.vkbackend/lock sleep 60`."""
    program = (
        "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, store.staging.folder / "lock"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_while_another_program_holds_the_lock_reads_work_and_changes_get_503(store, holder):
    async def ask(client, method, path, body=None):
        start = time.monotonic()
        async with client.request(method, path, json=body) as answer:
            return answer.status, await answer.text(), time.monotonic() - start

    async def conversation(client):
        copies = [
            asyncio.create_task(ask(client, "POST", "/api/copy", {"source": "m", "destination": f"n{number}"}))
            for number in range(40)
        ]  # more than there are threads
        deletion = asyncio.create_task(ask(client, "DELETE", "/api/delete", {"model": "m"}))
        asked = {"model": "o", "from": "m", "system": "S.", "stream": False}
        creation = asyncio.create_task(ask(client, "POST", "/api/create", asked))
        await asyncio.sleep(SECONDS / 4)
        reads = (("GET", "/api/tags", None), ("POST", "/api/show", {"model": "m"}), ("GET", "/api/ps", None))
        for method, path, body in reads:
            status, _, seconds = await ask(client, method, path, body)
            assert status == 200 and seconds < SECONDS / 2, path
        for status, text, seconds in await asyncio.gather(*copies, deletion, creation):
            assert status == 503 and SECONDS * 0.9 < seconds < SECONDS * 3, (status, text, seconds)
            assert f"process {holder.pid}" in text and ".vkbackend/lock" in text and "VKBACKEND_LOCK_TIMEOUT" in text
        holder.kill()
        assert (await ask(client, "POST", "/api/copy", {"source": "m", "destination": "n"}))[0] == 200

    talk(store, conversation)


def test_a_server_starts_while_another_program_holds_the_lock(store, holder, caplog):
    async def conversation(client):
        async with client.get("/api/tags") as answer:
            assert answer.status == 200

    talk(store, conversation)
    with pytest.raises(StoreBusy):
        store.prune()


def test_a_change_waits_for_a_lock_that_is_given_up_in_time(store, holder):
    threading.Timer(SECONDS / 3, holder.kill).start()
    store.copy(parse_name("m"), parse_name("n"))
    assert {model.name for model in store.list()} == {"m:latest", "n:latest"}


def test_a_thread_waits_for_another_thread_no_longer_than_for_a_program(store):
    failures, is_done = [], threading.Event()

    def work():
        start = time.monotonic()
        try:
            store.copy(parse_name("m"), parse_name("n"))
        except StoreBusy as error:
            failures.append((str(error), time.monotonic() - start))
        is_done.set()

    with store.lock:
        threading.Thread(target=work).start()
        assert is_done.wait(SECONDS * 5)
    assert "another request" in failures[0][0] and failures[0][1] < SECONDS * 3


def test_the_lock_is_one_that_others_understand(store):
    with store.lock, store.lock:  # as often as a thread likes
        with pytest.raises(TimeoutError):
            FileLock(store.staging.folder / "lock", timeout=0).acquire()
    FileLock(store.staging.folder / "lock", timeout=0).acquire().lock.release()


def test_a_lock_that_is_no_file_is_not_waited_for(store):
    lock = store.staging.folder / "lock"
    lock.unlink()
    os.mkfifo(lock)
    store.copy(parse_name("m"), parse_name("n"))
    lock.unlink()
    lock.mkdir()
    with pytest.raises(StoreError, match="cannot be changed"):
        store.copy(parse_name("m"), parse_name("o"))


def test_changes_work_on_file_systems_without_locks(store, monkeypatch):
    def unknown(descriptor, **_):
        raise OSError(staging.NO_LOCKS[0], "No locks available")

    monkeypatch.setattr(filelock, "lock_descriptor", unknown)
    store.copy(parse_name("m"), parse_name("n"))
    assert len(store.list()) == 2
