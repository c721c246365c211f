"""The server as a service: request ids, metrics, health, limits, the log, and shutdown while streams run."""

import asyncio
import io
import json
import logging
import re
import threading
import time

import pytest
from aiohttp.test_utils import TestClient, TestServer
from engine_world import World
from loaded_models_world import LoaderOf
from manage_models import make_model
from prometheus_client.parser import text_string_to_metric_families

from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.app import build_app
from vkbackend.server.http import log as service_log
from vkbackend.server.http import request_id
from vkbackend.server.http.keys import RUNNING
from vkbackend.server.library.store import Store
from vkbackend.server.loading.loaded_model import LoadResult
from vkbackend.server.loading.loaded_models import LoadedModels
from vkbackend.server.routes.table import ROUTES

QUICK = {"model": "m", "prompt": "a few words"}


class Service:
    """An application with one model, `m`, whose words the test chooses. gate: the engine waits for it at each step."""

    def __init__(self, folder, replies=(["a", " b", " c"],)):
        self.store = Store(folder / "store")
        make_model(self.store, "m", folder, {})
        self.world = World(replies, context_length=4096, max_sequences=4)
        self.loading = threading.Event()
        self.may_load = threading.Event()
        self.may_load.set()

    def load(self, stored, options):
        self.loading.set()
        assert self.may_load.wait(20)
        return LoadResult(
            self.world.engine,
            self.world.tokenizer,
            GGUFFile.open(stored.gguf_path),
            300,
            100,
            4096,
            self.world.engine.close,
        )

    def talk(self, conversation):
        async def run():
            self.app = build_app(self.store, LoadedModels(self.store, LoaderOf(self.load)))
            async with TestClient(TestServer(self.app)) as client:
                return await conversation(client)

        return asyncio.run(run())


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    yield made
    if made.world.runner.gate:
        made.world.runner.gate.release(10_000)
    made.world.engine.close()


def values(text: str) -> dict:
    """{(name, sorted labels): value} of a scrape."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_an_id_in_the_answer_and_in_the_log(service, caplog):
    async def conversation(client):
        for given in ("my-own.id_7", "", "two\twords", "x" * 200):
            answer = await client.post("/api/generate", json=QUICK, headers={request_id.HEADER: given} if given else {})
            await answer.read()
            id = answer.headers[request_id.HEADER]
            assert (id == given) == (given == "my-own.id_7") and re.fullmatch("[a-z0-9._-]{8,40}", id)
        for path in ("/", "/nowhere", "/api/chat"):  # also errors have one
            assert (await client.get(path)).headers[request_id.HEADER]

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(service_log.formatter("text"))
    logging.getLogger("vkbackend.server").addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "vkbackend.server"):
            service.talk(conversation)
    finally:
        logging.getLogger("vkbackend.server").removeHandler(handler)
    assert re.search(r"INFO \[my-own.id_7\] m:latest loaded in ", stream.getvalue())


def test_a_log_of_objects():
    record = logging.LogRecord("access", logging.INFO, "f.py", 1, '%s said "%s"', ("somebody", "a\nb"), None)
    record.status, record.request_id = 200, "abc"
    line = service_log.formatter("json").format(record)
    assert "\n" not in line
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", json.loads(line).pop("time"))
    assert {key: value for key, value in json.loads(line).items() if key != "time"} == {
        "level": "INFO",
        "logger": "access",
        "message": 'somebody said "a\nb"',
        "request_id": "abc",
        "status": 200,
    }


def test_metrics_count_what_happened(service):
    async def conversation(client):
        before = values(await (await client.get("/metrics")).text())
        for _ in range(3):
            await (await client.post("/api/generate", json=QUICK)).read()
        await client.get("/never/heard/of")
        answer = await client.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        return before, values(await answer.text())

    before, after = service.talk(conversation)

    def more(name, **labels):
        key = name, tuple(sorted(labels.items()))
        return after[key] - before.get(key, 0)

    assert more("vkbackend_requests_total", method="POST", route="/api/generate", status="200") == 3
    assert more("vkbackend_requests_total", method="GET", route="unknown", status="404") == 1
    assert more("vkbackend_request_seconds_count", route="/api/generate") == 3
    assert more("vkbackend_tokens_total", kind="generated") == 3 * 4  # three words and the end token
    assert more("vkbackend_tokens_total", kind="prompt") > 0
    assert more("vkbackend_generations_total", reason="stop") == 3
    assert after["vkbackend_models_loaded", ()] == 1 and after["vkbackend_model_users", (("model", "m:latest"),)] == 0
    assert after["vkbackend_model_memory_bytes", (("model", "m:latest"), ("where", "device"))] == 100
    pages = {
        state: after["vkbackend_cache_pages", (("model", "m:latest"), ("state", state))]
        for state in ("free", "known", "used")
    }
    assert pages["used"] == 0 and sum(pages.values()) == service.world.runner.pages.num_pages
    assert after["process_resident_memory_bytes", ()] > 1e6


def test_health_while_a_model_is_loaded(service):
    service.may_load.clear()

    async def conversation(client):
        asking = asyncio.create_task(client.post("/api/generate", json=QUICK))
        await asyncio.to_thread(service.loading.wait, 20)
        during = await asyncio.wait_for(client.get("/healthz"), 1)
        assert (during.status, await during.json()) == (200, {"status": "ok", "models": []})
        service.may_load.set()
        await (await asking).read()
        assert (await (await client.get("/healthz")).json())["models"] == ["m:latest"]
        found = await (await client.get("/api/devices")).json()
        assert found["vulkan"] in (True, False) and isinstance(found["devices"], list) and found["runs_on"]

    service.talk(conversation)


def test_limits_on_bodies_and_images(service, monkeypatch):
    monkeypatch.setenv("VKBACKEND_MAX_BODY_BYTES", "5000")
    monkeypatch.setenv("VKBACKEND_MAX_IMAGES", "1")
    image = "iVBORw0KGgo="

    async def conversation(client):
        async def status(path, body):
            answer = await client.post(path, json=body)
            return answer.status, await answer.text()

        assert (await status("/api/generate", QUICK | {"prompt": "x" * 5000}))[0] == 413
        assert (
            await status("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "x" * 5000}]})
        )[0] == 413
        assert (await status("/api/generate", QUICK | {"images": [image]}))[0] == 200
        for path, body in (
            ("/api/generate", QUICK | {"images": [image] * 2}),
            ("/api/chat", {"model": "m", "messages": [{"role": "user", "content": "x", "images": [image]}] * 2}),
            (
                "/v1/chat/completions",
                {
                    "model": "m",
                    "messages": [
                        {
                            "role": "user",
                            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + image}}]
                            * 2,
                        }
                    ],
                },
            ),
        ):
            code, text = await status(path, body)
            assert code == 400 and "holds 2 images" in text and "VKBACKEND_MAX_IMAGES" in text, (path, text)

    service.talk(conversation)


CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
LAST_LINES = {
    "/api/generate": (QUICK, lambda line: "shutting down" in json.loads(line)["error"]),
    "/api/chat": (CHAT, lambda line: "shutting down" in json.loads(line)["error"]),
    "/v1/chat/completions": (
        CHAT | {"stream": True},
        lambda line: json.loads(line.removeprefix("data: "))["model"] == "",
    ),
}


@pytest.mark.parametrize("path", LAST_LINES)
def test_a_stream_that_outlasts_the_drain_time_gets_a_last_line(service, path):
    body, is_last_line = LAST_LINES[path]
    runner = service.world.runner
    runner.next_token = lambda tokens: service.world.tokenizer.id(
        (" on", " and")[len(tokens) % 2]
    )  # not one again and again, which ends it
    runner.after_step = lambda: time.sleep(0.01)

    async def conversation(client):
        endless = await client.post(path, json=body)
        assert endless.status == 200
        ending = asyncio.create_task(service.app[RUNNING].end(0.3))
        await asyncio.sleep(0.05)
        assert not ending.done()
        late = await client.post("/api/show", json={"model": "m"})
        assert (
            late.status == 503
            and late.headers["Connection"] == "close"
            and "shutting down" in (await late.json())["error"]
        )
        late = await client.post("/v1/chat/completions", json=body)
        assert late.status == 503 and "shutting down" in (await late.json())["error"]["message"]
        await ending
        lines = [line for line in (await asyncio.wait_for(endless.text(), 5)).split("\n") if line]
        assert is_last_line(lines[-1]) and len(lines) > 10, lines

    service.talk(conversation)
    assert runner.cached == {}


def test_a_short_stream_is_not_cut_off(service):
    service.world.runner.after_step = lambda: time.sleep(0.05)

    async def conversation(client):
        answer = await client.post("/api/generate", json=QUICK)
        ending = asyncio.create_task(service.app[RUNNING].end(20))
        lines = [json.loads(line) for line in (await answer.text()).split("\n") if line]
        await asyncio.wait_for(ending, 5)
        assert lines[-1]["done_reason"] == "stop" and "".join(line["response"] for line in lines) == "a b c"

    service.talk(conversation)


def test_clients_waiting_for_a_whole_answer_are_also_notified(service):
    service.world.runner.gate = threading.Semaphore(0)

    async def conversation(client):
        asking = asyncio.create_task(client.post("/api/generate", json=QUICK | {"stream": False}))
        while not service.world.engine.num_unfinished:
            await asyncio.sleep(0.01)
        await service.app[RUNNING].end(0)
        answer = await asking
        assert answer.status == 503 and "shutting down" in (await answer.json())["error"]
        service.world.runner.gate.release(10_000)

    service.talk(conversation)


def test_foreign_hosts_and_origins_get_403_on_every_route(tmp_path):
    """For the application as it listens on loopback; no handler is called."""
    store = Store(tmp_path / "store")

    async def run():
        async with TestClient(
            TestServer(build_app(store, LoadedModels(store, None), listen_address="127.0.0.1"))
        ) as client:
            for route in ROUTES:
                path = route.path.replace("{", "").replace("}", "")
                for headers in (
                    {"Host": "evil.example"},
                    {"Host": "evil.example:80"},
                    {"Origin": "https://evil.example"},
                    {"Origin": "null"},
                    {"Origin": "http://localhost.evil.example"},
                    {"Host": "127.0.0.1.evil.example"},
                ):
                    answer = await client.request(route.method, path, data=b'{"model": "m"}', headers=headers)
                    assert (answer.status, await answer.read()) == (403, b""), (route.method, path, headers)
                    assert "Access-Control-Allow-Origin" not in answer.headers
                answer = await client.request(route.method, path, data=b"", headers={"Origin": "http://localhost:3000"})
                assert (
                    answer.status != 403 and answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
                ), path

    asyncio.run(run())


def test_shutdown_notifies_a_pull_and_ends_it(service, monkeypatch):
    ended = threading.Event()

    def pull(store, name, report, insecure, is_cancelled, credentials):
        report("pulling manifest")
        while not is_cancelled():
            time.sleep(0.01)
        ended.set()

    monkeypatch.setattr("vkbackend.server.library.registry.pull", pull)

    async def conversation(client):
        answer = await client.post("/api/pull", json={"model": "x"})
        assert json.loads(await answer.content.readline()) == {"status": "pulling manifest"}
        await service.app[RUNNING].end(0)
        assert "shutting down" in json.loads(await answer.content.readline())["error"]
        assert await asyncio.to_thread(ended.wait, 5)

    service.talk(conversation)
