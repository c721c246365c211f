"""Embeddings: the routes against recorded conversations with Ollama 0.12.11, and against a real engine over a small
model.
"""

import asyncio
import base64
import json
import math
import re
import time

import numpy as np
import pytest
from embed_world import LengthEngine, Served, WordTokenizer, recorded_gguf
from shared_data import shared
from tiny_gguf import write_tiny_gguf

from vkbackend.engine.engine import Engine
from vkbackend.engine.logprobs import token_text
from vkbackend.engine.request import Finished, FinishReason, PromptEmbedding, ScoredToken
from vkbackend.engine.runner import ModelRunner
from vkbackend.loading import load
from vkbackend.server.generation.embedding import normalize
from vkbackend.server.generation.events import logprobs
from vkbackend.server.go import encode as go_json
from vkbackend.server.loading.loaded_model import LoadResult
from vkbackend.tokenizer import Tokenizer

DURATIONS = re.compile(r'"(total_duration|load_duration)":\d+')


def test_recorded_conversations(tmp_path):
    vectors = [
        vector
        for vector in json.loads((shared("vectors") / "handlers_inference.json").read_text())
        if vector["path"] in ("/api/embed", "/api/embeddings")
    ]
    assert len(vectors) == 30
    engine, tokenizer = LengthEngine(), WordTokenizer()

    async def run():
        wrong = []
        async with Served(
            tmp_path, lambda stored, options: LoadResult(engine, tokenizer, None, 1, 1, options.num_ctx, lambda: None)
        ) as served:
            for vector in vectors:
                if "model" in vector:
                    architecture = vector["model"]["arch"]
                    await served.make(
                        vector["model"]["name"], recorded_gguf(tmp_path / f"{architecture}.gguf", architecture)
                    )
                engine.error = vector.get("runner_embedding_error")
                answer = await served.client.request(vector["method"], vector["path"], data=vector["body"].encode())
                found = answer.status, answer.headers["Content-Type"], DURATIONS.sub(r'"\1":1', await answer.text())
                if found != (vector["status"], vector["content_type"], vector["response"]):
                    wrong.append((vector["name"], vector["body"], found, vector["response"]))
        return wrong

    assert asyncio.run(run()) == []


@pytest.mark.parametrize("number, written", [(math.nan, "NaN"), (math.inf, "+Inf"), (-math.inf, "-Inf")])
def test_embeddings_that_are_not_finite_are_an_error(tmp_path, number, written):
    engine, tokenizer = LengthEngine(), WordTokenizer()
    engine.more = (3, number, 1)
    asked = [
        ("/api/embed", {"input": "a"}),
        ("/api/embeddings", {"prompt": "a"}),
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/embeddings", {"input": ["a"], "encoding_format": "base64"}),
    ]

    async def run():
        load = LoadResult(engine, tokenizer, None, 1, 1, 64, lambda: None)
        async with Served(tmp_path, lambda stored, options: load) as served:
            await served.make("m", recorded_gguf(tmp_path / "m.gguf", "llama"))
            return [await served.ask(path, model="m", **body) for path, body in asked]

    for status, answer in asyncio.run(run()):
        said = answer["error"]["message"] if isinstance(answer["error"], dict) else answer["error"]
        assert (status, said) == (500, f"failed to encode response: json: unsupported value: {written}")


def test_small_functions_are_as_recorded():
    vectors = json.loads((shared("vectors") / "server_small.json").read_text())
    kinds = [vector["kind"] for vector in vectors]
    assert (kinds.count("normalize"), kinds.count("api_logprobs"), len(kinds)) == (7, 3, 10)
    for vector in vectors:
        if vector["kind"] == "normalize":
            assert (
                normalize(np.array(vector["input"], np.float32)).tolist()
                == np.array(vector["output"], np.float32).tolist()
            ), vector
        else:
            tokens = [
                ScoredToken(0, token_text(data), data, logprob)
                for data, logprob in (
                    (base64.b64decode(item["token_b64"]), item["logprob"]) for item in vector["input"]
                )
            ]
            # Go writes U+FFFD as an escape where it stands for a bad byte: another spelling of the same JSON.
            assert json.loads(go_json.dumps(logprobs(tokens))) == json.loads(vector["json"]), vector


@pytest.fixture(scope="module")
def real(device, tmp_path_factory):
    """(bytes of a small model, a loader for it that keeps the engines it made)"""
    path = write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", "gemma3", "q8_0")

    def loader(stored, options):
        model = load(stored.gguf_path, device)
        tokenizer = Tokenizer.from_gguf(model.gguf)
        engine = Engine(ModelRunner(model, context_length=min(options.num_ctx, 512), max_sequences=4), tokenizer)
        return LoadResult(engine, tokenizer, model.gguf, 1, 1, 512, engine.close)

    return path.read_bytes(), loader


def test_many_texts_are_each_what_they_are_alone(real, tmp_path):
    contents, loader = real
    texts = [f"text number {number} " + "and more of it " * (number % 7) for number in range(90)]

    async def run():
        async with Served(tmp_path, loader) as served:
            await served.make("tiny", contents)
            status, whole = await served.ask("/api/embed", model="tiny", input=texts)
            assert status == 200 and len(whole["embeddings"]) == len(texts)
            assert all(abs(np.linalg.norm(vector) - 1) < 1e-5 for vector in whole["embeddings"])
            total = 0
            for at in (0, 6, 13, 89):
                _, alone = await served.ask("/api/embed", model="tiny", input=texts[at])
                assert np.dot(alone["embeddings"][0], whole["embeddings"][at]) > 0.9999
                total += alone["prompt_eval_count"]
            assert np.dot(whole["embeddings"][0], whole["embeddings"][6]) < 0.999
            assert whole["prompt_eval_count"] > total
            _, raw = await served.ask("/api/embeddings", model="tiny", prompt=texts[0])
            length = np.linalg.norm(raw["embedding"])
            assert length > 2 and np.dot(raw["embedding"], whole["embeddings"][0]) == pytest.approx(length, rel=1e-3)
            _, short = await served.ask("/api/embed", model="tiny", input=texts[0], dimensions=16)
            head = np.array(raw["embedding"][:16])
            np.testing.assert_allclose(short["embeddings"][0], head / np.linalg.norm(head), atol=2e-3)
            _, chat = await served.ask(
                "/api/generate", model="tiny", prompt="x", stream=False, raw=True, options={"num_predict": 3}
            )
            assert chat["done"]

    asyncio.run(run())


def test_a_large_answer_does_not_hold_up_the_event_loop(tmp_path):
    class Wide(LengthEngine):
        def submit(self, request, listener, is_full):
            listener(PromptEmbedding(np.linspace(-1, 1, 2048, dtype=np.float32)))
            listener(Finished(FinishReason.STOP, 1, 0.1, 0, 0.0, []))
            return self

    async def run():
        gaps, done = [], asyncio.Event()

        async def tick():
            while not done.is_set():
                before = time.perf_counter()
                await asyncio.sleep(0.001)
                gaps.append(time.perf_counter() - before)

        async with Served(
            tmp_path, lambda stored, options: LoadResult(Wide(), WordTokenizer(), None, 1, 1, 10, lambda: None)
        ) as served:
            await served.make("plain", recorded_gguf(tmp_path / "llama.gguf", "llama"))
            ticking, begin = asyncio.create_task(tick()), time.perf_counter()
            answer = await served.client.post("/api/embed", json={"model": "plain", "input": ["x"] * 200})
            whole, took = await answer.read(), time.perf_counter() - begin
            done.set()
            await ticking
            assert len(json.loads(whole)["embeddings"]) == 200
        return max(gaps), took

    longest, took = asyncio.run(run())
    assert longest < max(0.1, took / 3), f"{longest:.3f} s of {took:.3f} s without a turn of the loop"


def test_long_texts_are_cut_or_refused(real, tmp_path):
    contents, loader = real

    async def run():
        async with Served(tmp_path, loader) as served:
            await served.make("tiny", contents)
            long = "word " * 100
            status, answer = await served.ask(
                "/api/embed", model="tiny", input=["short", long], options={"num_ctx": 40}, truncate=False
            )
            assert (status, answer) == (400, {"error": "input exceeds maximum context length"})
            status, answer = await served.ask("/api/embed", model="tiny", input=long, options={"num_ctx": 40})
            assert status == 200 and 30 <= answer["prompt_eval_count"] <= 40
            status, answer = await served.ask("/api/embed", model="tiny", input="x", options={"num_ctx": "many"})
            assert status == 500 and "num_ctx" in answer["error"]
            status, answer = await served.ask("/api/embeddings", model="../tiny", prompt="x")
            assert (status, answer) == (400, {"error": "model is required"})

    asyncio.run(run())


def test_a_client_that_leaves_ends_its_work(real, tmp_path):
    contents, loader = real
    engines = []

    def keeping(stored, options):
        result = loader(stored, options)
        engines.append(result.engine)
        return result

    async def run():
        async with Served(tmp_path, keeping) as served:
            await served.make("tiny", contents)
            await served.ask("/api/embed", model="tiny", input="warm")
            texts = ["a long text " * 60 + str(number) for number in range(400)]
            asking = asyncio.create_task(served.ask("/api/embed", model="tiny", input=texts))
            while not engines[0].num_unfinished:
                await asyncio.sleep(0.01)
            asking.cancel()
            for _ in range(300):
                await asyncio.sleep(0.01)
                if not engines[0].num_unfinished:
                    break
            await asyncio.sleep(0.05)
            assert engines[0].num_unfinished == 0
            assert (await served.ask("/api/embed", model="tiny", input="still there"))[0] == 200

    asyncio.run(run())


@pytest.mark.parametrize("tokenizer, adds_bos", [("gpt2", False), ("llama", True)])
def test_empty_texts(tmp_path, tokenizer, adds_bos):
    """Alone, an empty text means no text, except on /v1. In a list it is a token, or nothing that a model could run."""
    contents = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "q8_0", tokenizer=tokenizer).read_bytes()

    def loader(stored, options):
        model = load(stored.gguf_path, None)
        engine = Engine(ModelRunner(model, context_length=128, max_sequences=4), Tokenizer.from_gguf(model.gguf))
        assert engine.tokenizer.adds_bos == adds_bos
        return LoadResult(engine, engine.tokenizer, model.gguf, 1, 1, 128, engine.close)

    async def run():
        async with Served(tmp_path, loader) as served:
            await served.make("m", contents)
            assert await served.ask("/api/embed", model="m", input="") == (200, {"model": "m", "embeddings": []})
            assert await served.ask("/api/embed", model="m", input=[]) == (200, {"model": "m", "embeddings": []})
            assert await served.ask("/api/embeddings", model="m", prompt="") == (200, {"embedding": []})
            return [
                await served.ask("/api/embed", model="m", input=[""]),
                await served.ask("/api/embed", model="m", input=["a", ""]),
                await served.ask("/v1/embeddings", model="m", input=""),
                await served.ask("/v1/embeddings", model="m", input=[""]),
            ]

    native, mixed, text, texts = asyncio.run(run())
    if adds_bos:
        assert [native[0], mixed[0], text[0], texts[0]] == [200] * 4
        assert "prompt_eval_count" not in native[1] and mixed[1]["embeddings"][1] == native[1]["embeddings"][0]
        vectors = [answer["data"][0]["embedding"] for _, answer in (text, texts)]
        assert vectors == native[1]["embeddings"] * 2
    else:
        words = "Failed to create new sequence: no input provided"
        assert native == mixed == (500, {"error": words})
        error = {"message": words, "type": "api_error", "param": None, "code": None}
        assert text == texts == (500, {"error": error})
