"""The application in a process of its own: recorded conversations, and clients that misbehave on the wire."""

import hashlib
import json
import socket
import subprocess
import sys
import threading

import pytest
from live_server import LiveServer
from manage_models import write_gguf
from shared_data import shared
from starter_models import model_path

# Conversations of these areas that run a model belong to the tests of generate and chat.
CASES = {"root": "*", "http": "*", "blobs": "*", "manage": "*", "models": "show_*", "create": "create_safetensors*"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with LiveServer(tmp_path_factory.mktemp("models")) as server:
        yield server


@pytest.mark.parametrize("area", CASES)
def test_recorded_conversations(server, area):
    smollm2, gemma3 = model_path("smollm2"), model_path("gemma3")
    replay = subprocess.run(
        [
            sys.executable,
            shared("conformance") / "replay.py",
            "--base",
            server.url,
            "--smollm2",
            smollm2,
            "--gemma3",
            gemma3,
            "--area",
            area,
            "--only",
            CASES[area],
            "--skip-quirks",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert replay.returncode == 0 and " 0 failed" in replay.stdout, replay.stdout[-4000:] + replay.stderr[-2000:]


def test_an_upload_cut_off_leaves_nothing(server):
    contents = b"x" * 300_000
    digest = f"sha256:{hashlib.sha256(contents).hexdigest()}"
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(
            f"POST /api/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(contents)}\r\n\r\n".encode()
            + contents[:200_000]
        )
    _wait_until(lambda: not list((server.models_folder / ".vkbackend").glob(".upload-*")))
    assert server.call("HEAD", f"/api/blobs/{digest}")[0] == 404
    assert server.call("POST", f"/api/blobs/{digest}", contents)[0] == 201
    assert server.call("HEAD", f"/api/blobs/{digest}")[0] == 200


def _wait_until(holds):
    for _ in range(100):
        if holds():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it did not come true within 5 seconds")


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"POST /api/show HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_noise_on_the_wire_does_not_take_the_server_down(server, wire):
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(wire)
    assert server.call("GET", "/api/version")[0] == 200


@pytest.mark.parametrize("path", ["/api/show", "/api/create", "/api/copy", "/api/delete", "/api/pull", "/api/push"])
def test_strange_bodies_get_an_error_in_json(server, path):
    method = "DELETE" if path == "/api/delete" else "POST"
    for body in (
        b"",
        b"[]",
        b"{",
        b"\x00\xff",
        b"[" * 100_000,
        b'{"model":5}',
        b'{"model":{"a":[]},"source":[]}',
        b'{"model":"../../../etc/passwd","source":"/"}',
        b'{"model":"\\u0000","source":"\\ud800"}',
        b'{"model":"' + b"a" * 100_000 + b'"}',
    ):
        status, text = server.call(method, path, body)
        # What a push finds out about its model comes after its first line, as in the original.
        is_streamed = path == "/api/push" and text.startswith('{"status":"retrieving manifest"}\n')
        assert status == 200 if is_streamed else 400 <= status < 600, (body[:40], status, text)
        assert json.loads(text.splitlines()[-1])["error"], (body[:40], status, text)
    assert server.call("GET", "/api/version")[0] == 200


def test_creates_and_deletes_at_once(server, tmp_path):
    contents = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    digest = f"sha256:{hashlib.sha256(contents).hexdigest()}"
    server.call("POST", f"/api/blobs/{digest}", contents)
    assert server.call("POST", "/api/create", {"model": "tiny", "files": {"m.gguf": digest}, "stream": False}) == (
        200,
        '{"status":"success"}',
    )
    seen = []

    def work(number):
        for turn in range(5):
            seen.append(
                server.call(
                    "POST",
                    "/api/create",
                    {"model": "tiny-b", "from": "tiny", "system": f"{number} {turn}", "stream": False},
                )[0]
            )
            seen.append(server.call("DELETE", "/api/delete", {"model": "tiny-b"})[0])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) <= {200, 404} and seen.count(200) >= 21  # every create, and at least one delete
    assert server.call("POST", "/api/show", {"model": "tiny"})[0] == 200
    assert server.call("DELETE", "/api/delete", {"model": "tiny"})[0] == 200
