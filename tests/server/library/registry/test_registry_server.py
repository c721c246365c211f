"""Pull and push for clients and users: /api/pull, /api/push and the commands, with Debian's registry."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time

import ollama
import pseudo_terminals
import pytest
from click.testing import CliRunner
from docker_registry import DockerRegistry
from fault_proxy import FaultProxy, Slow, Stall
from live_server import LiveServer, free_port
from places import ROOT
from registry_world import MODEL_BYTES, contents, digest_of, make, name, push
from shared_data import shared
from starter_models import model_path
from tiny_gguf import write_tiny_gguf

from vkbackend.server.cli.main import cli
from vkbackend.server.cli.terminal.progress import Bar
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.registry import partial
from vkbackend.server.library.store import Store

DATA = contents(2)
DIGEST = digest_of(DATA)
SHORT = f"pulling {DIGEST[7:19]}"


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    with DockerRegistry(folder / "registry") as registry, FaultProxy(registry.host) as proxy:
        make(Store(folder / "source"), f"{registry.host}/library/m", DATA)
        push(Store(folder / "source"), f"{registry.host}/library/m")
        registry.proxy = proxy
        yield registry


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with LiveServer(tmp_path_factory.mktemp("models")) as server:
        yield server


@pytest.fixture
def slow(debian):
    debian.proxy.forget()
    debian.proxy.fault = lambda seen: Slow(2_500_000) if seen.kind == "GET blobs" else None
    return debian.proxy


@pytest.fixture
def store(server):
    """The server's store, emptied."""
    store = Store(server.models_folder)
    for each in store.all_names():
        store.delete(each)
    return store


def is_whole(store, registry) -> bool:
    return store.get(parse_name(name(registry))).gguf_path.read_bytes() == DATA and not list(
        partial.folder_of(store).iterdir()
    )


def wait_until(holds, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


# --- the API


def test_recorded_conversations(server):
    replay = subprocess.run(
        [
            sys.executable,
            shared("conformance") / "replay.py",
            "--base",
            server.url,
            "--smollm2",
            model_path("smollm2"),
            "--gemma3",
            model_path("gemma3"),
            "--area",
            "registry",
            "--skip-quirks",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert replay.returncode == 0 and "4 passed, 0 failed" in replay.stdout, (
        replay.stdout[-4000:] + replay.stderr[-2000:]
    )


def test_ollamas_own_client_pulls_and_pushes(debian, server, store):
    client = ollama.Client(server.url)
    pieces = list(client.pull(name(debian), insecure=True, stream=True))
    assert [piece.status for piece in pieces if not piece.digest] == [
        "pulling manifest",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    mine = [piece for piece in pieces if piece.digest == DIGEST]
    assert {(piece.status, piece.total) for piece in mine} == {(SHORT, MODEL_BYTES)} and mine[
        -1
    ].completed == MODEL_BYTES
    assert is_whole(store, debian)
    assert f"{debian.host}/library/m:latest" in [model.model for model in client.list().models]
    client.copy(f"{debian.host}/library/m", f"{debian.host}/library/n")
    statuses = [piece.status for piece in client.push(f"{debian.host}/library/n", insecure=True, stream=True)]
    assert statuses[0] == "retrieving manifest" and statuses[-2:] == ["pushing manifest", "success"]
    client.delete(f"{debian.host}/library/n")
    assert client.pull(f"{debian.host}/library/n", insecure=True).status == "success"  # not streamed
    with pytest.raises(ollama.ResponseError, match="not found") as error:
        client.push("nobody/nothing", insecure=True)
    assert error.value.status_code == 500
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        client.pull(f"{debian.host}/library/nothing", insecure=True)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_pull_and_keeps_its_parts(slow, server, store, stream):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/api/pull", json.dumps({"model": name(slow), "insecure": True, "stream": stream}))
    wait_until(lambda: partial.num_present(partial.folder_of(store), DIGEST) > 100_000)
    connection.sock.close() if not stream else connection.getresponse().close()
    connection.close()
    wait_until(lambda: _is_free(store))
    kept = partial.num_present(partial.folder_of(store), DIGEST)
    assert 0 < kept < MODEL_BYTES and not store.blob_path(DIGEST).exists()
    slow.forget()
    ollama.Client(server.url).pull(name(slow), insecure=True)
    assert is_whole(store, slow)
    assert sum(seen.sent for seen in slow.of_kind("GET blobs") if DIGEST in seen.path) == MODEL_BYTES - kept


def test_pulls_that_hang_leave_threads_for_others(slow, server, store):
    slow.fault = lambda seen: Stall(1000) if seen.kind == "GET blobs" else None
    connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=20) for _ in range(40)]
    for connection in connections:
        connection.request("POST", "/api/pull", json.dumps({"model": name(slow), "insecure": True}))
        connection.getresponse().readline()
    started = time.monotonic()
    assert ollama.Client(server.url).create_blob(__file__).startswith("sha256:")
    assert time.monotonic() - started < 5
    for connection in connections:
        connection.close()
    wait_until(lambda: _is_free(store))


def _is_free(store) -> bool:
    """No process is writing to the parts."""
    opened = partial.open_partial(partial.folder_of(store), DIGEST, MODEL_BYTES, MODEL_BYTES)
    if opened is not None:
        opened.close()
    return opened is not None


def test_a_killed_server_resumes_downloads_after_its_start(slow, tmp_path):
    store = Store(tmp_path / "models")
    with LiveServer(store.root) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("POST", "/api/pull", json.dumps({"model": name(slow), "insecure": True}))
        wait_until(lambda: partial.num_present(partial.folder_of(store), DIGEST) > 500_000)
        server.process.kill()
        server.process.wait(10)
    kept = partial.num_present(partial.folder_of(store), DIGEST)
    slow.forget()
    with LiveServer(store.root) as server:
        client = ollama.Client(server.url)
        assert client.list().models == []
        client.pull(name(slow), insecure=True)
    assert is_whole(store, slow)
    assert sum(seen.sent for seen in slow.of_kind("GET blobs") if DIGEST in seen.path) == MODEL_BYTES - kept


# --- the commands


@pytest.fixture
def without_server(monkeypatch, tmp_path):
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    return Store(tmp_path / "models")


def test_commands_without_a_server(debian, without_server):
    result = CliRunner().invoke(cli, ["pull", "--insecure", f"{debian.host}/library/m"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert (
        lines[0] == "pulling manifest"
        and lines.count(SHORT) == 1
        and lines[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    )
    assert is_whole(without_server, debian)
    result = CliRunner().invoke(cli, ["push", "--insecure", f"{debian.host}/library/m"])
    assert result.exit_code == 0 and result.output.splitlines()[-1] == "success"


def test_a_model_goes_there_and_back_and_answers(debian, without_server, tmp_path):
    model = f"{debian.host}/me/tiny:f32"
    for arguments in (
        ["create", model, "--gguf", write_tiny_gguf(tmp_path / "tiny.gguf")],
        ["push", "--insecure", model],
        ["rm", model],
    ):
        result = CliRunner().invoke(cli, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
    assert without_server.list() == []
    for arguments in (["pull", "--insecure", model], ["show", model]):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
    assert "llama" in result.output
    with LiveServer(without_server.root) as server:
        answer = ollama.Client(server.url).generate(model, "abc", options={"num_predict": 3, "temperature": 0})
        assert answer.done and answer.eval_count > 0


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["pull", "http://127.0.0.1:1/library/m"], "Error: insecure protocol http"),
        (["pull", "bad name"], "Error: invalid model name"),
        (["pull", "--insecure", "127.0.0.1:1/library/m"], "Error: pull model manifest: could not connect"),
        (["push", "nobody/nothing"], "Error: model 'nobody/nothing' not found"),
    ],
)
def test_commands_that_fail(without_server, arguments, says):
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1 and says in result.output


def _start(registry, error=subprocess.PIPE):
    """Enable Ctrl-C there, even if the tests run in the background of a shell, which disables it."""
    return subprocess.Popen(
        [sys.executable, "-m", "vkbackend", "pull", "--insecure", name(registry)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=error,
        text=True,
        env=os.environ | {"COLUMNS": "90", "TERM": "xterm-256color"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_bars_on_a_terminal(slow, without_server):
    outer, inner = pseudo_terminals.opened()
    process = _start(slow, inner)
    os.close(inner)
    shown = b""
    try:
        while piece := os.read(outer, 4096):
            shown += piece
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(outer)
    assert process.wait(10) == 0
    text = shown.decode()
    assert SHORT in text and "▕" in text and "/3 MB" in text and "MB/s" in text and "100%" in text and "success" in text
    assert is_whole(without_server, slow)


def test_ctrl_c_ends_a_pull_and_the_next_one_resumes(slow, without_server):
    slow.fault = lambda seen: (
        Slow(600_000) if seen.kind == "GET blobs" else None
    )  # five seconds: not over before the signal
    process = _start(slow)
    wait_until(lambda: partial.num_present(partial.folder_of(without_server), DIGEST) > 100_000)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    kept = partial.num_present(partial.folder_of(without_server), DIGEST)
    assert 0 < kept < MODEL_BYTES
    slow.forget()
    assert CliRunner().invoke(cli, ["pull", "--insecure", name(slow)]).exit_code == 0
    assert is_whole(without_server, slow)
    assert sum(seen.sent for seen in slow.of_kind("GET blobs") if DIGEST in seen.path) == MODEL_BYTES - kept


def bar(*samples):
    """(second, completed) of a gigabyte."""
    bar = Bar("pulling dde5aa3fc5ff")
    for now, completed in samples:
        bar.update(completed, 10**9, now)
    return bar


@pytest.mark.parametrize(
    "samples, width, line",
    [
        ([(0, 0)], 80, "pulling dde5aa3fc5ff:   0% ▕" + " " * 23 + "▏ 0 B/1 GB" + " " * 19),
        (
            [(0, 0), (1, 10**8), (2, 2 * 10**8)],
            80,
            "pulling dde5aa3fc5ff:  20% ▕████                ▏ 200 MB/1 GB   100 MB/s      8s",
        ),
        (
            [(0, 8 * 10**8), (2, 8 * 10**8 + 10**6)],
            80,
            "pulling dde5aa3fc5ff:  80% ▕████████████████    ▏ 801 MB/1 GB   500 KB/s   6m38s",
        ),
        ([(0, 10**9)], 50, "pulling dde5aa3fc5ff: 100% ▕" + "█" * 16 + "▏ 1 GB"),
        ([(0, 5 * 10**8)], 30, "pulling dde5aa3fc5ff:  50% 500"),
    ],
)
def test_a_bar(samples, width, line):
    assert bar(*samples).line(width) == line


def test_a_rate_is_of_now():
    """Bytes of an earlier pull do not count."""
    assert bar((0, 5 * 10**8)).rate == 0
    assert bar((0, 0), (10, 10**8), (14, 10**8)).rate == 0
    unknown = Bar("pulling x")
    unknown.update(1500, 0, 0)
    assert unknown.line(80) == "pulling x: 1.5 KB"
