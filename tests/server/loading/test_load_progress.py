"""Progress of loading a model: lines in the server's streams, loads on devices and on the CPU, and the bar of the
command line.
"""

import asyncio
import json
import threading

import pytest
from cli_world import some_device
from generate_world import run, serving
from terminal_world import on_terminal
from tiny_gguf import write_tiny_gguf

from vkbackend import loading
from vkbackend.errors import OutOfMemory
from vkbackend.placement.opening import open_engine
from vkbackend.progress import LoadProgress
from vkbackend.server.loading.loaded_model import LoadResult


class SteppingLoader:
    """Loads one byte of four each time that `steps` is released; fails after the second if `fails`."""

    def __init__(self, loader, fails=False):
        self.loader, self.fails, self.steps = loader, fails, threading.Semaphore(0)
        self.progress: LoadProgress | None = None

    def num_devices(self):
        return 1

    def load(self, stored, options, whole, progress: LoadProgress) -> LoadResult:
        self.progress = progress
        progress.begin(4)
        for count in range(4):
            assert self.steps.acquire(timeout=20)
            progress.add(1)
            if self.fails and count == 1:
                raise OutOfMemory("no room for it")
        return self.loader.load(stored, options, whole, progress)


def stepping(client, **options) -> SteppingLoader:
    client.loaded_models._loader = SteppingLoader(client.loaded_models._loader, **options)
    return client.loaded_models._loader


async def lines(answer) -> list[dict]:
    return [json.loads(line) for line in (await answer.text()).splitlines()]


BODIES = {"/api/generate": {"prompt": "hi"}, "/api/chat": {"messages": [{"role": "user", "content": "hi"}]}}


@pytest.mark.parametrize("path", BODIES)
def test_load_progress_comes_before_the_answer(tmp_path, path):
    async def scenario():
        async with serving(tmp_path) as client:
            loader = stepping(client)
            answer = await_task(client.post(path, json={"model": "m", "load_progress": True} | BODIES[path]))
            loader.steps.release(1)
            response = await answer
            first = json.loads(await response.content.readline())
            loader.steps.release(3)
            told = [first, *await lines(response)]
            before = [line for line in told if "status" in line]
            assert told[: len(before)] == before and response.headers["Content-Type"] == "application/x-ndjson"
            assert all(set(line) == {"model", "status", "total", "completed"} for line in before)
            assert {(line["model"], line["status"], line["total"]) for line in before} == {("m", "loading model", 4)}
            assert [line["completed"] for line in before] in ([1, 4], [0, 1, 4], [0, 4], [0, 1, 3, 4], [1, 3, 4])
            assert told[-1]["done"] and len(told) > len(before) + 1
            again = await lines(await client.post(path, json={"model": "m", "load_progress": True} | BODIES[path]))
            assert again[-1]["done"] and not any("status" in line for line in again)

    run(scenario)


def await_task(coroutine) -> asyncio.Task:
    return asyncio.ensure_future(coroutine)


@pytest.mark.parametrize("asked", [{}, {"load_progress": False}, {"load_progress": True, "stream": False}])
def test_load_progress_is_sent_only_on_request_and_in_streams(tmp_path, asked):
    async def scenario():
        async with serving(tmp_path) as client:
            stepping(client).steps.release(4)
            told = await lines(await client.post("/api/generate", json={"model": "m", "prompt": "hi"} | asked))
            assert told[-1]["done"] and not any("status" in line for line in told)

    run(scenario)


def test_requests_that_join_a_load_see_its_progress(tmp_path):
    async def scenario():
        async with serving(tmp_path) as client:
            loader = stepping(client)
            first = await_task(client.post("/api/generate", json={"model": "m"}))
            while loader.progress is None:
                await asyncio.sleep(0.01)
            loader.steps.release(2)
            second = await client.post("/api/generate", json={"model": "m", "load_progress": True})
            assert json.loads(await second.content.readline())["completed"] in (0, 1, 2)
            loader.steps.release(2)
            told = await lines(second)
            assert told[-2]["completed"] == 4 and (told[-1]["done"], told[-1]["done_reason"]) == (True, "load")
            assert (await (await first).json())["done_reason"] == "load"

    run(scenario)


def test_a_load_that_fails_behind_the_first_line_ends_the_stream_with_the_error(tmp_path):
    async def scenario():
        async with serving(tmp_path) as client:
            loader = stepping(client, fails=True)
            answer = await_task(
                client.post("/api/generate", json={"model": "m", "prompt": "hi", "load_progress": True})
            )
            loader.steps.release(1)
            response = await answer
            loader.steps.release(1)
            told = await lines(response)
            assert response.status == 200 and told[-1] == {"error": "no room for it"}
            loader = stepping(client, fails=True)
            loader.steps.release(2)
            response = await client.post("/api/generate", json={"model": "m", "prompt": "hi", "load_progress": True})
            assert (response.status, await response.json()) == (500, {"error": "no room for it"})

    run(scenario)


def test_a_client_that_leaves_during_the_load_does_not_end_it(tmp_path):
    async def scenario():
        async with serving(tmp_path) as client:
            loader = stepping(client)
            answer = await_task(
                client.post("/api/generate", json={"model": "m", "prompt": "hi", "load_progress": True})
            )
            loader.steps.release(1)
            (await answer).close()
            loader.steps.release(1)
            await asyncio.sleep(0.3)
            loader.steps.release(2)
            told = await lines(await client.post("/api/generate", json={"model": "m", "prompt": "hi"}))
            assert told[-1]["done"] and len(client.loaded_models.loaded) == 1
            while client.loaded_models.loaded[0].num_users:
                await asyncio.sleep(0.01)

    run(scenario)


class Watched(LoadProgress):
    """Progress that remembers every state."""

    def __init__(self):
        super().__init__()
        self.states = []

    def add(self, num_bytes):
        super().add(num_bytes)
        self.states.append((self.completed, self.total))


@pytest.mark.parametrize("num_gpu", [0, -1, 1])
def test_a_load_counts_the_bytes_of_the_file(tmp_path, monkeypatch, num_gpu):
    """On the CPU, on a device, on both."""
    if num_gpu:
        some_device()
        monkeypatch.setenv("OLLAMA_VULKAN", "1")
    path, progress = write_tiny_gguf(tmp_path / "tiny.gguf"), Watched()
    opened = open_engine(path, num_gpu=num_gpu, progress=progress)
    opened.close()
    assert len(opened.placement) == (3 if num_gpu == 1 else 1)
    total = loading.read(path).num_bytes
    completed = [state[0] for state in progress.states]
    assert total <= progress.states[0][1] <= 2 * total  # a tied embedding counts on each device that holds it
    assert len(completed) > 5 and completed == sorted(completed) and completed[0] < total / 2 < completed[-1]
    assert progress.completed == progress.total


def test_run_shows_a_bar_on_a_terminal_only(environment):
    shown = on_terminal(environment, "run", "slow", "hi", columns=60)
    assert "loading slow:  50% ▕" in shown and "▏ 1 GB/2 GB" in shown
