"""A server in this process over the real engine with a fake runner."""

import asyncio
import hashlib
import json
from contextlib import asynccontextmanager

import numpy as np
from aiohttp.test_utils import TestClient, TestServer
from fake_runner import FakeRunner, FakeTokenizer
from gguf import GGUFWriter
from loaded_models_world import LoaderOf

from vkbackend.engine.engine import Engine
from vkbackend.server.app import build_app
from vkbackend.server.library.store import Store
from vkbackend.server.loading.loaded_model import LoadResult
from vkbackend.server.loading.loaded_models import LoadedModels


@asynccontextmanager
async def serving(folder, replies=(("Hel", "lo", "!"),), vocabulary=(), **model):
    """A client of a server that has the model `m`, whose answers are `replies`; `client.runner` is its runner.

    vocabulary: the tokens that the model's file lists. model: further keys of /api/create.
    """
    tokenizer = FakeTokenizer()
    runner = FakeRunner(tokenizer, replies)
    store = Store(folder / "models")

    def load(stored, options):
        engine = Engine(runner, tokenizer)
        return LoadResult(engine, tokenizer, None, 1, 1, options.num_ctx, engine.close)

    loaded_models = LoadedModels(store, LoaderOf(load))
    async with TestClient(TestServer(build_app(store, loaded_models))) as client:
        path = folder / "m.gguf"
        writer = GGUFWriter(path, "llama")
        if vocabulary:
            writer.add_token_list(list(vocabulary))
        writer.add_tensor("token_embd.weight", np.zeros((1, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        await client.post(f"/api/blobs/{digest}", data=path.read_bytes())
        answer = await client.post(
            "/api/create", json={"model": "m", "files": {"m.gguf": digest}, "stream": False, **model}
        )
        assert answer.status == 200
        client.runner, client.loaded_models = runner, loaded_models
        try:
            yield client
        finally:
            if runner.gate:
                runner.gate.release(1000)
            await loaded_models.close()


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 30))


async def generate(client, **body):
    answer = await client.post("/api/generate", json={"model": "m", **body})
    return answer, [json.loads(line) for line in (await answer.text()).splitlines()]
