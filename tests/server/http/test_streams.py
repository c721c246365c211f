"""Streams of answers: what is sent if a part of one cannot be encoded as JSON."""

import asyncio
import json
import math
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from vkbackend.server.http.line_stream import LineStream
from vkbackend.server.http.running import RUNNING, RunningRequests
from vkbackend.server.http.streams import Replies, send, send_events

GOOD, BAD = {"text": "a"}, {"logprob": math.nan}
MESSAGE = "failed to encode response: json: unsupported value: NaN"


def answer_of(handler):
    """(status, content type, text) of a request that `handler` answers."""

    async def ask():
        app = web.Application()
        app[RUNNING] = RunningRequests()
        app.router.add_get("/", handler)
        async with TestClient(TestServer(app)) as client:
            answer = await client.get("/")
            return answer.status, answer.content_type, await answer.text()

    return asyncio.run(ask())


def lines_of(parts, early=()):
    async def pieces():
        for part in parts:
            yield part

    @asynccontextmanager
    async def replies():
        yield Replies(pieces=pieces())

    async def handler(request):
        lines = LineStream(request)
        for line in early:
            await lines.write(line)
        return await send(request, lines, replies(), True, lambda pieces: None)

    status, content_type, text = answer_of(handler)
    return status, content_type, [json.loads(line) for line in text.splitlines()]


def test_a_first_line_that_json_cannot_hold_is_an_error_with_a_status():
    assert lines_of([BAD, GOOD]) == (500, "application/json", [{"error": MESSAGE}])


def test_a_later_line_that_json_cannot_hold_ends_the_stream_with_an_error():
    assert lines_of([GOOD, BAD, GOOD]) == (200, "application/x-ndjson", [GOOD, {"error": MESSAGE}])


def test_after_lines_of_progress_an_error_is_a_line():
    progress = {"status": "loading model"}
    assert lines_of([BAD], early=[progress]) == (200, "application/x-ndjson", [progress, {"error": MESSAGE}])


@pytest.mark.parametrize("num_good", [0, 1])
def test_an_event_that_json_cannot_hold_is_raised_only_before_the_stream_begins(num_good):
    raised = []

    async def chunks():
        for part in [*[GOOD] * num_good, BAD]:
            yield part

    async def handler(request):
        try:
            return await send_events(request, chunks(), lambda: {"broken": True})
        except ValueError as error:
            raised.append(str(error))
            return web.Response(status=500)

    status, content_type, text = answer_of(handler)
    if num_good:
        assert (status, content_type, raised) == (200, "text/event-stream", [])
        assert text == 'data: {"text":"a"}\n\ndata: {"broken":true}\n\n'
    else:
        assert (status, raised) == (500, [MESSAGE])
