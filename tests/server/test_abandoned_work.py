"""Abandoned work ends, and no kind of work waits for another: one real server on a tiny model."""

import asyncio
import json
import socket
import threading
import time
from pathlib import Path

import pytest
from live_server import LiveServer
from tiny_server import with_model

from vkbackend import cancellation
from vkbackend.server import pools
from vkbackend.server.prompts.gotemplate import Template, TemplateError, Values, budget
from vkbackend.server.prompts.jinja.worker_process import Worker

ENDLESS = "{{ range $i := 10000000000 }}{{ end }}"
FOREVER_JINJA = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with LiveServer(tmp_path_factory.mktemp("store")) as running:
        with_model(running, tmp_path_factory.mktemp("gguf"))
        assert (
            running.call("POST", "/api/generate", {"model": "m", "prompt": "ab", "options": {"num_predict": 1}})[0]
            == 200
        )
        yield running


def send(server, body: dict) -> socket.socket:
    """Send a request without waiting for its answer."""
    data = json.dumps({"model": "m", **body}).encode()
    client = socket.create_connection(("127.0.0.1", server.port), 10)
    client.sendall(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    return client


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_others_are_served_while_endless_templates_run(server):
    clients = [send(server, {"prompt": "x", "template": ENDLESS}) for _ in range(6)]
    time.sleep(0.3)
    for method, path, body in (
        ("GET", "/api/tags", None),
        ("POST", "/api/show", {"model": "m"}),
        ("POST", "/api/generate", {"model": "m", "prompt": "ab", "stream": False, "options": {"num_predict": 1}}),
    ):
        started = time.monotonic()
        assert server.call(method, path, body)[0] == 200
        assert time.monotonic() - started < 1, path
    for client in clients:
        client.close()


def test_a_template_ends_when_its_client_leaves(server):
    clients = [send(server, {"prompt": "x", "template": ENDLESS}) for _ in range(6)]
    time.sleep(0.3)
    for client in clients:
        client.close()
    idle_from = (
        time.monotonic() + 4
    )  # well before the templates' own limit, MAX_SECONDS of the processor's time for each of two at a time
    while True:
        before = cpu_seconds(server.process.pid)
        time.sleep(1)
        if cpu_seconds(server.process.pid) - before < 0.3:
            break
        assert time.monotonic() < idle_from, "the server still works for clients that have left"


def test_a_template_is_bounded_by_time(monkeypatch):
    monkeypatch.setattr(budget, "MAX_SECONDS", 0.1)
    with pytest.raises(TemplateError, match="takes more than 0.1 seconds"):
        Template.parse(ENDLESS).execute(Values(messages=[{"role": "user", "content": "x"}]))


def test_a_template_of_a_model_ends_when_nobody_waits():
    work, worker = cancellation.Work(), Worker()
    threading.Timer(0.5, work.give_up).start()
    started = time.monotonic()
    with work.current(), pytest.raises(cancellation.GivenUp):
        worker.ask(FOREVER_JINJA, {})
    assert time.monotonic() - started < 1.5
    assert worker._process is None, "its process is still at work"


def test_queued_work_of_a_client_that_left_never_starts():
    started, gate = [], threading.Event()

    async def conversation():
        busy = [asyncio.create_task(pools.run("formats", gate.wait, 10)) for _ in range(pools.THREADS["formats"])]
        await asyncio.sleep(0.1)
        pools.client_left.set(lambda: True)
        with pytest.raises(Exception, match="the client closed the request"):
            await pools.run("formats", started.append, 1)
        gate.set()
        await asyncio.gather(*busy, return_exceptions=True)
        await pools.run_to_end("formats", lambda: None)

    asyncio.run(conversation())
    assert not started
