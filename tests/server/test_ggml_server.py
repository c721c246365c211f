"""A real server whose models run on ggml: threads as requested, asleep without work, and models deleted in use."""

import http.client
import json
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cpu_programs import require_ggml
from create_requests import call, create, upload
from live_server import LiveServer
from tiny_gguf import write_tiny_gguf

IDLE_SECONDS = 2
ANSWER = {"prompt": "ab", "raw": True, "options": {"num_predict": 600, "temperature": 1, "seed": 2, "num_thread": 1}}


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", "gemma3", "q4_k").read_bytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory, contents):
    require_ggml()
    settings = {"OLLAMA_VULKAN": "0", "VKBACKEND_CPU": "ggml"}
    with LiveServer(tmp_path_factory.mktemp("models"), environment=settings) as server:
        assert create(server, "m", upload(server, contents))[0] == 200
        yield server


def generate(server, num_thread: int) -> str:
    options = {"num_predict": 8, "num_thread": num_thread, "temperature": 0}
    status, answer = call(server, "/api/generate", {"model": "m", "prompt": "ab", "stream": False, "options": options})
    assert status == 200, answer
    return answer["response"]


def num_threads(server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


def cpu_seconds(server) -> float:
    """Of all threads that the server has now."""
    files = Path(f"/proc/{server.process.pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def test_a_model_runs_on_the_threads_that_a_request_names(server):
    answers, more = set(), {2: [], 4: []}
    for _ in range(3):  # the server itself may start another thread in between
        answers.add(generate(server, 1))
        one = num_threads(server)
        for num_thread, found in more.items():
            answers.add(generate(server, num_thread))
            found.append(num_threads(server) - one)
    assert min(more[2]) == 1 and min(more[4]) == 3, more
    assert len(answers) == 1


def test_threads_of_an_idle_server_sleep(server):
    generate(server, 2)
    time.sleep(0.5)
    before = cpu_seconds(server)
    time.sleep(IDLE_SECONDS)
    assert cpu_seconds(server) - before < 0.01 * IDLE_SECONDS


def test_an_answer_continues_when_its_model_is_deleted(server, contents):
    assert create(server, "other", upload(server, contents))[0] == 200
    expected, _ = answer_of("other", server, lambda: None)
    deleted = []
    (blob,) = [path for path in (server.models_folder / "blobs").iterdir() if path.stat().st_size == len(contents)]

    def delete():
        for name in ("m", "other"):
            assert server.call("DELETE", "/api/delete", {"model": name})[0] == 200
        assert not blob.exists()
        deleted.append(datetime.now(UTC).isoformat())

    try:
        text, end = answer_of("other", server, delete)
        assert text == expected and deleted[0] < end, "the answer had ended before"
    finally:
        assert create(server, "m", upload(server, contents))[0] == 200


def answer_of(model: str, server, after_first_token) -> tuple[str, str]:
    """The text of a streamed answer, and the time of its end. Calls `after_first_token` while the model generates."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/api/generate", json.dumps({"model": model, **ANSWER}))
    lines = connection.getresponse()
    parts = [json.loads(lines.readline())]
    after_first_token()
    parts += map(json.loads, lines)
    connection.close()
    assert parts[-1].get("done") and parts[-1]["eval_count"] > 50, parts[-1]
    return "".join(part["response"] for part in parts), parts[-1]["created_at"]


def test_a_file_that_another_program_shortens_ends_the_server_with_a_word_in_the_log(tmp_path, contents):
    """The process has the file mapped, and the system ends it (docs/limits.md)."""
    require_ggml()
    settings = {"OLLAMA_VULKAN": "0", "VKBACKEND_CPU": "ggml"}
    with LiveServer(tmp_path / "models", environment=settings, log=tmp_path / "log") as server:
        digest = upload(server, contents)
        assert create(server, "m", digest)[0] == 200
        generate(server, 1)
        with open(server.models_folder / "blobs" / digest.replace(":", "-"), "r+b") as file:
            file.truncate(64)
        with pytest.raises((OSError, http.client.HTTPException)):
            generate(server, 1)
        assert server.process.wait(20) == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in (tmp_path / "log").read_text()
