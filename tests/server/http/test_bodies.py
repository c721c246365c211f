"""Bodies that arrive at the same time have a bound together; a slow sender does not block the others."""

import asyncio

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from vkbackend.server.errors import ApiError
from vkbackend.server.http import bodies

MIB = 1 << 20


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setenv("VKBACKEND_MAX_BODY_BYTES", str(4 * MIB))
    monkeypatch.setattr(bodies, "room", bodies.Room())
    monkeypatch.setattr(bodies, "max_total_bytes", lambda: 4 * MIB)
    monkeypatch.setattr(bodies, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(bodies, "LOOK_SECONDS", 0.05)


async def size(request: web.Request) -> web.Response:
    try:
        async with bodies.read(request) as body:
            await asyncio.sleep(float(request.query.get("parse", 0)))
            return web.Response(text=str(len(body)))
    except ApiError as error:
        return web.Response(status=error.status, text=error.message)


def conversation(talk) -> None:
    async def run():
        app = web.Application(client_max_size=1 << 40)
        app.router.add_post("/", size)
        async with TestServer(app) as server, ClientSession(server.make_url("/")) as session:
            await talk(session)
        assert not bodies.room.bodies, "a body counts for ever"

    asyncio.run(run())


async def send(session, num_bytes: int, seconds: float = 0.0, path: str = "/") -> tuple[int, str]:
    """A body in two halves, with a pause in between."""

    async def halves():
        yield bytes(num_bytes // 2)
        await asyncio.sleep(seconds)
        yield bytes(num_bytes - num_bytes // 2)

    async with session.post(path, data=halves()) as answer:
        return answer.status, await answer.text()


def test_a_body_as_large_as_the_limit_is_read_and_a_larger_one_refused():
    async def talk(session):
        assert await send(session, 4 * MIB) == (200, str(4 * MIB))
        status, text = await send(session, 4 * MIB + 1)
        assert status == 413 and f"larger than {4 * MIB} bytes" in text

    conversation(talk)


def test_a_body_waits_while_others_take_the_room():
    async def talk(session):
        first = asyncio.create_task(send(session, 3 * MIB, path="/?parse=1"))
        await asyncio.sleep(0.3)
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await send(session, 2 * MIB) == (200, str(2 * MIB))
        assert loop.time() - started > 0.3, "it did not wait"
        assert (await first)[0] == 200

    conversation(talk)


def test_the_oldest_slow_body_gives_way_and_small_ones_wait_for_nobody():
    async def talk(session):
        slow = [asyncio.create_task(send(session, 3 * MIB, seconds=20)) for _ in range(2)]
        await asyncio.sleep(0.2)
        waiting = asyncio.create_task(send(session, 2 * MIB))
        await asyncio.sleep(0.1)
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await send(session, bodies.FREE_BYTES) == (200, str(bodies.FREE_BYTES))
        assert loop.time() - started < 0.5
        assert await waiting == (200, str(2 * MIB))
        assert loop.time() - started < 5
        for task in slow:
            task.cancel()
        results = await asyncio.gather(*slow, return_exceptions=True)
        assert [result[0] for result in results if isinstance(result, tuple)] == [503], "one is enough"

    conversation(talk)


def test_bodies_that_wait_for_each_other_come_to_an_end():
    async def talk(session):
        results = await asyncio.gather(*(send(session, 3 * MIB, seconds=0.3) for _ in range(3)))
        statuses = [status for status, _ in results]
        assert 200 in statuses and set(statuses) <= {200, 503}

    conversation(talk)


def test_a_body_that_finds_no_room_is_refused(monkeypatch):
    monkeypatch.setattr(bodies, "WAIT_SECONDS", 0.3)

    async def talk(session):
        first = asyncio.create_task(send(session, 3 * MIB, path="/?parse=2"))
        await asyncio.sleep(0.3)
        status, text = await send(session, 2 * MIB)
        assert status == 503 and "VKBACKEND_MAX_BODIES_BYTES" in text
        assert (await first)[0] == 200

    conversation(talk)
