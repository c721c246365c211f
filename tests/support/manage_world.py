"""The whole application in this process without loaded models."""

import asyncio

from aiohttp.test_utils import TestClient, TestServer

from vkbackend.server.app import build_app


class NoModels:
    """As much of LoadedModels as managing models needs."""

    loaded = ()
    num_waiting = 0

    def running(self):
        return []

    async def close(self):
        pass


def talk(store, conversation, **settings):
    """Run `conversation(client)` against an application of its own."""

    async def run():
        async with TestClient(TestServer(build_app(store, NoModels(), **settings))) as client:
            return await conversation(client)

    return asyncio.run(run())
