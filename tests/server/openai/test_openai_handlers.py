"""The whole server with a scripted engine behind /v1: recorded conversations with Ollama 0.12.11, and extensions."""

import asyncio
import re

from embed_world import LengthEngine, Served, WordTokenizer, recorded_gguf
from recorded import load
from scripted_world import World, asked_alike

from vkbackend.server.loading.loaded_model import LoadResult

IDS = re.compile(r'"(chatcmpl|cmpl)-\d+"')
CREATED = re.compile(r'"created":\d+')
# Recordings that do not apply here, and why.
OTHERWISE = {"handler-270": "/v1/completions gives the log-probabilities that it was asked for"}


def normal(text):
    return CREATED.sub('"created":0', IDS.sub(r'"\1-N"', text))


def test_recorded_conversations(tmp_path):
    paths = ("/v1/chat/completions", "/v1/completions")
    vectors = [
        vector for vector in load("handlers_inference") if vector["path"] in paths and vector["name"] not in OTHERWISE
    ]
    assert len(vectors) == 14

    async def run():
        wrong = []
        async with World(tmp_path) as world:
            for vector in vectors:
                status, content_type, text = await world.ask(vector)
                got, want = (
                    (status, content_type, normal(text)),
                    (vector["status"], vector["content_type"], vector["response"]),
                )
                if got != want or not asked_alike(world, vector.get("runner_requests", [])):
                    wrong.append(f"{vector['name']} {vector['body']}\n  got  {got}\n  want {want}")
        return wrong

    wrong = asyncio.run(run())
    assert not wrong, "\n".join(wrong)


def test_recorded_embeddings(tmp_path):
    vectors = [vector for vector in load("handlers_inference") if vector["path"] == "/v1/embeddings"]
    assert len(vectors) == 6
    engine, tokenizer = LengthEngine(), WordTokenizer()

    async def run():
        wrong = []
        async with Served(
            tmp_path, lambda stored, options: LoadResult(engine, tokenizer, None, 1, 1, options.num_ctx, lambda: None)
        ) as served:
            for vector in vectors:
                architecture = vector["model"]["arch"]
                await served.make(
                    vector["model"]["name"], recorded_gguf(tmp_path / f"{architecture}.gguf", architecture)
                )
                answer = await served.client.post(vector["path"], data=vector["body"].encode())
                got = answer.status, answer.headers["Content-Type"], await answer.text()
                if got != (vector["status"], vector["content_type"], vector["response"]):
                    wrong.append(f"{vector['name']} {vector['body']}\n  got  {got}\n  want {vector['response']}")
        return wrong

    wrong = asyncio.run(run())
    assert not wrong, "\n".join(wrong)
