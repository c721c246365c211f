"""Freeing what a large request was made of holds up nobody."""

import asyncio
import gc
import weakref

from vkbackend.server import garbage, pools
from vkbackend.server.go.binding import bind
from vkbackend.server.wire.native import ChatRequest


class Box(list):
    """A list with weak references."""


def test_the_outermost_container_is_freed_first_while_its_parts_are_kept(monkeypatch):
    monkeypatch.setattr(garbage, "ITEMS_PER_PIECE", 1)
    inner = Box()
    outer = Box([inner])
    seen = weakref.ref(inner)
    was_there = []
    weakref.finalize(outer, lambda: was_there.append(seen() is not None))
    containers = [inner, outer]
    del inner, outer
    garbage._free(containers)
    assert was_there == [True] and seen() is None


def test_all_containers_of_a_request_are_listed_inner_ones_first():
    made = []
    body = (
        b'{"messages":[{"tool_calls":[{"function":{"arguments":{"a":[[1]]}}}]}],"tools":[{}],"options":{"x":{"y":[]}}}'
    )
    ask = bind(ChatRequest, body, made)
    places = {id(container): place for place, container in enumerate(made)}

    def check(outer, inner):
        assert places[id(inner)] < places[id(outer)]

    (message,) = ask.messages
    (call,) = message.tool_calls
    check(ask, ask.messages)
    check(ask.messages, message)
    check(message, message.tool_calls)
    check(message.tool_calls, call)
    check(call, call.function)
    check(call.function, call.function.arguments)
    check(call.function.arguments, call.function.arguments["a"])
    check(call.function.arguments["a"], call.function.arguments["a"][0])
    check(ask.tools, ask.tools[0])
    check(ask.options, ask.options["x"])
    check(ask.options["x"], ask.options["x"]["y"])


def test_garbage_is_collected_only_while_no_large_request_is_there(monkeypatch):
    monkeypatch.setattr(garbage, "LOOK_SECONDS", 0.01)
    collected = []
    monkeypatch.setattr(garbage.gc, "collect", lambda *_: collected.append(1))
    monkeypatch.setattr(garbage.gc, "get_count", lambda: (0, 0, 1))

    async def conversation():
        task = asyncio.create_task(garbage.collect_when_quiet())
        garbage.begin()
        await asyncio.sleep(0.1)
        assert not collected
        garbage.end()
        await asyncio.sleep(0.1)
        assert collected
        garbage.begin()
        collected.clear()
        monkeypatch.setattr(garbage, "MOST_SECONDS", 0.0)
        await asyncio.sleep(0.1)
        assert collected, "large requests put it off for ever"
        garbage.end()
        task.cancel()

    asyncio.run(conversation())


def test_a_large_request_is_freed_when_it_is_answered():
    async def conversation():
        kept = garbage.begin()
        box = Box()
        kept.append(box)
        seen = weakref.ref(box)
        del box
        garbage.end()
        await pools.run_to_end("garbage", lambda: None)
        assert seen() is None and garbage.made.get() is None

    asyncio.run(conversation())
    assert gc.isenabled()


def test_a_service_that_stops_leaves_the_collector_as_it_was():
    before = gc.get_threshold()
    garbage.start()
    try:
        assert gc.get_freeze_count() and gc.get_threshold() != before
    finally:
        garbage.stop()
    assert not gc.get_freeze_count() and gc.get_threshold() == before


def test_long_containers_are_taken_apart_unless_something_else_uses_them(monkeypatch):
    monkeypatch.setattr(garbage, "ITEMS_PER_PIECE", 2)
    used = [1, 2, 3]
    garbage._free([[1, 2, 3], {1: 1, 2: 2, 3: 3}, used])
    assert used == [1, 2, 3]
