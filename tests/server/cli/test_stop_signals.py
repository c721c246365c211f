"""`serve` stops on signals, also where the event loop cannot handle them, as on Windows."""

import asyncio
import os
import signal

import pytest

from vkbackend.server.cli.serve import handle_stop_signals


@pytest.mark.parametrize("loop_handles_signals", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server(number, loop_handles_signals, monkeypatch):
    async def run():
        loop = asyncio.get_running_loop()
        if not loop_handles_signals:
            monkeypatch.setattr(loop, "add_signal_handler", unsupported)
        stopped = asyncio.Event()
        handle_stop_signals(stopped.set)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stopped.wait(), 10)

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(run())
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def unsupported(*_):
    raise NotImplementedError
