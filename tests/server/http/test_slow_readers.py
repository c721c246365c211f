"""Clients that stay connected and do not read: their generations pause, others continue, and memory does not grow."""

import json
import socket
import time
import urllib.request

import pytest
from engine_world import WAIT, World
from live_server import LiveServer
from tiny_server import with_model

from vkbackend.engine.request import Finished

MOST_GROWTH_BYTES = 16 << 20


class SlowListener:
    """Takes `most` events, then is full until `take` makes room."""

    def __init__(self, most):
        self.events, self.room = [], most

    def is_full(self):
        return self.room <= 0

    def __call__(self, event):
        self.events.append(event)
        self.room -= 1


def until(is_so, seconds=WAIT):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("pages", [None, 60])
def test_a_full_listener_pauses_its_generation_and_others_take_its_place(pages):
    words = [f" w{number}" for number in range(40)]
    world = World([words, ["other"], words], max_sequences=1, context_length=256, num_pages=pages)
    with world.engine:
        slow = SlowListener(5)
        handle = world.engine.submit(world.request(num_predict=40), slow, slow.is_full)
        until(lambda: len(slow.events) >= 5)
        assert world.run("another prompt")[0] == "other"
        time.sleep(0.1)
        num_steps = len(world.runner.steps)
        assert len(slow.events) <= 7, "it went on"
        time.sleep(0.1)
        assert len(world.runner.steps) == num_steps, "the engine does not rest"
        slow.room = 1000
        handle.wake()
        until(lambda: isinstance(slow.events[-1], Finished))
        assert slow.events[-1].tokens >= 40


def test_a_paused_generation_can_be_cancelled_and_closed():
    world = World([[f" w{number}" for number in range(40)]], context_length=256)
    with world.engine:
        cancelled, closed = SlowListener(3), SlowListener(3)
        handles = [
            world.engine.submit(world.request(num_predict=40), listener, listener.is_full)
            for listener in (cancelled, closed)
        ]
        until(lambda: len(cancelled.events) >= 3 and len(closed.events) >= 3)
        time.sleep(0.1)
        handles[0].cancel()
        until(lambda: isinstance(cancelled.events[-1], Finished))
        assert cancelled.events[-1].reason == "cancelled" and not isinstance(closed.events[-1], Finished)
    assert isinstance(closed.events[-1], Finished)
    assert world.runner.cached == {}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with LiveServer(
        tmp_path_factory.mktemp("store"), environment={"VKBACKEND_UNREAD_SECONDS": "4", "OLLAMA_NUM_PARALLEL": "1"}
    ) as running:
        with_model(running, tmp_path_factory.mktemp("gguf"))
        yield running


def stream(server) -> socket.socket:
    """A client with a small receive buffer; its answer has over a hundred bytes for each of thousands of tokens."""
    data = json.dumps(
        {
            "model": "m",
            "prompt": "ab",
            "raw": True,
            "logprobs": True,
            "top_logprobs": 20,
            "options": {
                "num_predict": 5000,
                "temperature": 1,
                "seed": 1,
                "num_ctx": 512,
                "logit_bias": {"0": -100, "1": -100, "2": -100},
            },
        }
    ).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect(("127.0.0.1", server.port))
    client.sendall(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    return client


def metric(server, name: str) -> float:
    with urllib.request.urlopen(server.url + "/metrics") as answer:
        return sum(float(line.split()[-1]) for line in answer.read().decode().splitlines() if line.startswith(name))


def is_paused(server) -> bool:
    return (
        metric(server, "vkbackend_sequences") == 1
        and metric(server, 'vkbackend_cache_pages{model="m:latest",state="used"}') == 0
    )


def test_a_client_that_never_reads_pauses_and_others_are_answered(server):
    with stream(server) as client:
        client.recv(100)
        until(lambda: is_paused(server), 60)  # the kernel keeps some megabytes
        memory = metric(server, "process_resident_memory_bytes")
        body = {
            "model": "m",
            "prompt": "ab",
            "raw": True,
            "stream": False,
            "options": {"num_predict": 3, "num_ctx": 512},
        }
        started = time.monotonic()
        assert server.call("POST", "/api/generate", body)[0] == 200
        assert time.monotonic() - started < 2
        time.sleep(0.5)
        assert metric(server, "process_resident_memory_bytes") - memory < MOST_GROWTH_BYTES
        received = bytearray()
        client.settimeout(20)
        while b'"done":true' not in received[-4000:] and len(received) < 20 << 20:
            received += client.recv(1 << 20)
            time.sleep(0.0005)
        assert b'"done":true' in received


def test_a_client_that_never_reads_is_closed_after_the_documented_time(server):
    with stream(server) as client:
        client.recv(100)
        until(lambda: is_paused(server), 60)
        until(lambda: metric(server, "vkbackend_model_users") == 0)
        received = bytearray()
        try:
            while piece := client.recv(1 << 20):
                received += piece
        except ConnectionError:
            pass
        assert b'"done":true' not in received
