"""A server in this process with a scripted engine, and recorded conversations with it."""

import hashlib
import re

import numpy as np
from aiohttp.test_utils import TestClient, TestServer
from gguf import GGUFWriter
from loaded_models_world import LoaderOf

from vkbackend.engine.request import Failed, Finished, Piece, ScoredToken
from vkbackend.errors import VkbackendError
from vkbackend.server.app import build_app
from vkbackend.server.errors import ApiError
from vkbackend.server.library.store import Store
from vkbackend.server.loading.loaded_model import LoadResult
from vkbackend.server.loading.loaded_models import LoadedModels

VARIABLE = re.compile(r'"(total_duration|load_duration)":\d+')
CALL_ID = re.compile(r'"id":"call_[a-z0-9]{8}"')
CREATED = re.compile(r'"created_at":"[^"]*"')


class Words(list):
    """Token ids with the `text` that they were made from."""


class WordTokenizer:
    """The recorded runner's: words count up from 0, and every id reads back as `tok `."""

    adds_bos = adds_spaces = False

    def __init__(self):
        self.prompts = []  # texts encoded for a generation: only these get special tokens

    def encode(self, text, add_special=True, parse_special=True):
        if add_special:
            self.prompts.append(text)
        words = Words(range(len(text.split())))
        words.text = text
        return words

    def with_special(self, ids):
        self.prompts.append(ids.text)
        return ids

    def decode(self, ids):
        return b"tok " * len(ids)


class ScriptedEngine:
    """Answers every request with the pieces of one recording, or a second one with pieces of its own, and keeps the
    requests.
    """

    failure = None

    def __init__(self):
        self.pieces, self.second_pieces, self.error, self.requests = [], None, None, []

    def submit(self, request, listener, is_full):
        self.requests.append(request)
        for piece in self.second_pieces if len(self.requests) == 2 else self.pieces:
            if piece.get("content") or piece.get("logprobs"):
                listener(Piece(piece["content"], [token(item) for item in piece.get("logprobs") or ()]))
            if piece.get("done"):
                listener(
                    Finished(
                        piece["done_reason"],
                        piece["prompt_eval_count"],
                        piece["prompt_eval_duration"] / 1e9,
                        piece["eval_count"],
                        piece["eval_duration"] / 1e9,
                        [],
                    )
                )
        if self.error:
            listener(Failed(self.error))
        return self

    def cancel(self):
        pass


def token(item):
    return ScoredToken(
        0,
        item["token"],
        item["token"].encode(),
        item["logprob"],
        [token(top) for top in item.get("top_logprobs") or ()],
    )


def tiny_gguf(path, architecture, vision=False, chat_template=""):
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(10)
    if chat_template:
        writer.add_chat_template(chat_template)
    if vision:
        writer.add_uint32(f"{architecture}.vision.block_count", 1)
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
        loaded = LoadedModels(
            store,
            LoaderOf(
                lambda stored, options: LoadResult(
                    self.engine, self.tokenizer, None, 1, 1, options.num_ctx, lambda: None
                )
            ),
        )
        self.client = TestClient(TestServer(build_app(store, loaded)))
        await self.client.start_server()
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    async def make(self, model):
        if model["name"] in self.made:
            return
        files = {
            "m.gguf": await self.upload(
                tiny_gguf(
                    self.folder / f"{model['arch']}.gguf", model["arch"], chat_template=model.get("chat_template")
                )
            )
        }
        if model.get("vision"):
            files["p.gguf"] = await self.upload(tiny_gguf(self.folder / "projector.gguf", "clip", vision=True))
        body = {"model": model["name"], "files": files, "stream": False, **model["create"]}
        answer = await self.client.post("/api/create", json=body)
        assert answer.status == 200, await answer.text()
        self.made.add(model["name"])

    async def upload(self, contents) -> str:
        digest = "sha256:" + hashlib.sha256(contents).hexdigest()
        assert (await self.client.post(f"/api/blobs/{digest}", data=contents)).status in (200, 201)
        return digest

    async def ask(self, vector):
        """-> (status, content type, text with times taken out)"""
        if "model" in vector:
            await self.make(vector["model"])
        self.engine.pieces, self.engine.second_pieces, self.engine.requests = (
            vector["runner_pieces"],
            vector.get("runner_pieces_second_request"),
            [],
        )
        self.tokenizer.prompts.clear()
        error = vector.get("runner_error")
        self.engine.error = recorded_error(error) if error else None
        answer = await self.client.request(vector["method"], vector["path"], data=vector["body"].encode())
        text = CALL_ID.sub('"id":"call_XXXXXXXX"', CREATED.sub('"created_at":"TIME"', await answer.text()))
        return answer.status, answer.headers["Content-Type"], VARIABLE.sub(r'"\1":1', text)


def recorded_error(error):
    return (
        ApiError(error["status_code"], error["message"]) if "status_code" in error else VkbackendError(error["message"])
    )


def asked_alike(world, recorded) -> bool:
    """Whether the engine was given the prompts and options that the real runner was given."""
    if world.tokenizer.prompts != [request["prompt"] for request in recorded] or len(world.engine.requests) != len(
        recorded
    ):
        return False
    for got, want in zip(world.engine.requests, recorded):
        options = want["options"]
        sampling = {
            name: getattr(got.options, name) for name in ("temperature", "top_k", "top_p", "repeat_penalty", "seed")
        }
        # A penalty that nobody asked for is left out where the architecture's engine has none, as in the real one,
        # below this recording.
        if sampling["repeat_penalty"] == 1.0:
            sampling["repeat_penalty"] = 1.1
        rest = {
            "num_predict": got.num_predict,
            "num_keep": got.num_keep,
            "stop": list(got.stop) or None,
            "num_ctx": got.num_ctx,
        }
        if sampling | rest != options | {"num_ctx": max(options["num_ctx"], 4)}:
            return False
        if got.format != want["format"]:
            return False
        if (got.logprobs, got.top_logprobs, got.shift, got.truncate) != (
            want["logprobs"],
            want["top_logprobs"],
            want["shift"],
            want["truncate"],
        ):
            return False
    return True


def pieces(*texts):
    return [{"content": text} for text in texts] + [
        {
            "content": "",
            "done": True,
            "done_reason": "stop",
            "eval_count": 3,
            "eval_duration": 4,
            "prompt_eval_count": 1,
            "prompt_eval_duration": 2,
        }
    ]
