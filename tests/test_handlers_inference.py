"""The whole server with a scripted engine, against recorded conversations with Ollama 0.12.11 (/api/generate and /api/chat)."""

import asyncio
import hashlib
import json
import re

import numpy as np
from aiohttp.test_utils import TestClient, TestServer
from gguf import GGUFWriter
from server.app import build_app
from server.errors import ApiError
from server.loaded_models import LoadedModels, LoadResult
from server.store import Store
from shared_data import shared
from vkbackend.engine.sequence import Failed, Finished, Piece, TokenLogprob
from vkbackend.errors import VkbackendError

VARIABLE = re.compile(r'"(total_duration|load_duration)":\d+')
CREATED = re.compile(r'"created_at":"[^"]*"')


class WordTokenizer:
    """The recorded runner's: words count up from 0, and every id reads back as `tok `."""

    def __init__(self):
        self.prompts = []  # texts encoded for a generation: only these get special tokens

    def encode(self, text, add_special=True, parse_special=True):
        if add_special:
            self.prompts.append(text)
        return list(range(len(text.split())))

    def decode(self, ids):
        return b"tok " * len(ids)


class ScriptedEngine:
    """Answers every request with the pieces of one recording, and keeps the requests."""

    failure = None

    def __init__(self):
        self.pieces, self.error, self.requests = [], None, []

    def submit(self, request, listener):
        self.requests.append(request)
        for piece in self.pieces:
            if piece.get("content") or piece.get("logprobs"):
                listener(Piece(piece["content"], [token(item) for item in piece.get("logprobs") or ()]))
            if piece.get("done"):
                listener(Finished(piece["done_reason"], piece["prompt_eval_count"], piece["prompt_eval_duration"] / 1e9, piece["eval_count"],
                                  piece["eval_duration"] / 1e9, []))
        if self.error:
            listener(Failed(self.error))
        return self

    def cancel(self):
        pass


def token(item):
    return TokenLogprob(0, item["token"], item["token"].encode(), item["logprob"], [token(top) for top in item.get("top_logprobs") or ()])


def tiny_gguf(path, architecture):
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(10)
    if architecture == "bert":
        writer.add_uint32("bert.pooling_type", 1)
    writer.add_tensor("token_embd.weight", np.zeros((1, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


class World:
    """An application over an empty store in which recorded models come into being when they are first needed."""

    def __init__(self, folder):
        self.folder, self.engine, self.made, self.tokenizer = folder, ScriptedEngine(), set(), WordTokenizer()

    async def __aenter__(self):
        store = Store(self.folder / "models")
        loaded = LoadedModels(store, lambda stored, options: LoadResult(self.engine, self.tokenizer, None, 1, 1, options.num_ctx, lambda: None))
        self.client = TestClient(TestServer(build_app(store, loaded)))
        await self.client.start_server()
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    async def make(self, model):
        if model["name"] in self.made:
            return
        contents = tiny_gguf(self.folder / f"{model['arch']}.gguf", model["arch"])
        digest = "sha256:" + hashlib.sha256(contents).hexdigest()
        assert (await self.client.post(f"/api/blobs/{digest}", data=contents)).status in (200, 201)
        body = {"model": model["name"], "files": {"m.gguf": digest}, "stream": False, **model["create"]}
        answer = await self.client.post("/api/create", json=body)
        assert answer.status == 200, await answer.text()
        self.made.add(model["name"])

    async def ask(self, vector):
        """-> (status, content type, text with times taken out)"""
        if "model" in vector:
            await self.make(vector["model"])
        self.engine.pieces, self.engine.requests = vector["runner_pieces"], []
        self.tokenizer.prompts.clear()
        error = vector.get("runner_error")
        self.engine.error = recorded_error(error) if error else None
        answer = await self.client.request(vector["method"], vector["path"], data=vector["body"].encode())
        text = CREATED.sub('"created_at":"TIME"', await answer.text())
        return answer.status, answer.headers["Content-Type"], VARIABLE.sub(r'"\1":1', text)


def recorded_error(error):
    return ApiError(error["status_code"], error["message"]) if "status_code" in error else VkbackendError(error["message"])


def not_yet(vector):
    """Why a recording does not apply, or None."""
    try:
        body = json.loads(vector["body"])
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    if vector["status"] == 404 and vector.get("model", {}).get("name") == str(body.get("model")).lower() != body.get("model"):
        return "model names fold case everywhere: the recorded 404 is a quirk"
    if vector["status"] != 200:
        return None
    template = vector.get("model", {}).get("create", {}).get("template", "")
    if body.get("tools"):
        return "tool calls are parsed later"
    if body.get("format") not in (None, ""):
        return "structured output comes later"
    if "parser" in vector.get("model", {}).get("create", {}) or "vision" in vector.get("model", {}):
        return "models with parsers or vision come later"
    written = "".join(piece["content"] for piece in vector["runner_pieces"]) + vector["body"]
    if ".Thinking" in template and "<think>" in written:
        return "thinking is parsed later"
    return None


def asked_alike(world, recorded) -> bool:
    """Whether the engine was given the prompts and options that the real runner was given."""
    if world.tokenizer.prompts != [request["prompt"] for request in recorded] or len(world.engine.requests) != len(recorded):
        return False
    for got, want in zip(world.engine.requests, recorded):
        options = want["options"]
        sampling = {name: getattr(got.options, name) for name in ("temperature", "top_k", "top_p", "repeat_penalty", "seed")}
        # A penalty that nobody asked for is left out where the architecture's engine has none, as in the real one, below this recording.
        if sampling["repeat_penalty"] == 1.0:
            sampling["repeat_penalty"] = 1.1
        rest = {"num_predict": got.num_predict, "num_keep": got.num_keep, "stop": list(got.stop) or None, "num_ctx": got.num_ctx}
        if sampling | rest != options | {"num_ctx": max(options["num_ctx"], 4)}:
            return False
        if (got.logprobs, got.top_logprobs, got.shift, got.truncate) != (want["logprobs"], want["top_logprobs"], want["shift"], want["truncate"]):
            return False
    return True


def test_recorded_conversations(tmp_path):
    vectors = [v for v in json.loads((shared("vectors") / "handlers_inference.json").read_text()) if v["path"] in ("/api/generate", "/api/chat")]
    applying = [vector for vector in vectors if not not_yet(vector)]
    assert len(applying) > 90

    async def run():
        wrong = []
        async with World(tmp_path) as world:
            for vector in applying:
                status, content_type, text = await world.ask(vector)
                same_error = "json: cannot unmarshal" in vector["response"] and status == vector["status"]  # Go's type names vary
                same_answer = (status, content_type, text) == (vector["status"], vector["content_type"], vector["response"])
                good = (same_answer or same_error) and asked_alike(world, vector.get("runner_requests", []))
                if not good:
                    wrong.append((vector["name"], vector["body"], (status, text[:300]), (vector["status"], vector["response"][:300])))
        return wrong

    wrong = asyncio.run(run())
    assert wrong == [], "\n".join(map(str, wrong))
