"""A server whose engine returns the recorded runner's vectors."""

import hashlib

import numpy as np
from aiohttp.test_utils import TestClient, TestServer
from gguf import GGUFWriter
from loaded_models_world import LoaderOf

from vkbackend.engine.request import Failed, Finished, FinishReason, PromptEmbedding, Purpose
from vkbackend.errors import VkbackendError
from vkbackend.server.app import build_app
from vkbackend.server.library.store import Store
from vkbackend.server.loading.loaded_models import LoadedModels

MARKS = {"bert": {"bos": 100, "eos": 101}, "llama": {}}  # of the recorded models: the ids that begin and end a text


class Words(list):
    """Token ids that remember the text which they were made of."""


class WordTokenizer:
    """The recorded runner's: words count up from 0, and every id reads back as `tok `."""

    adds_bos = adds_spaces = False

    def encode(self, text, add_special=True, parse_special=True):
        words = Words(range(len(text.split())))
        words.text = text
        return words

    def with_special(self, ids):
        return ids

    def decode(self, ids):
        return b"tok " * len(ids)


class LengthEngine:
    """The recorded runner's: the vector of a text is its length in bytes, then 3, -4, 1."""

    failure = None

    def __init__(self):
        self.error, self.more = None, (3, -4, 1)

    def submit(self, request, listener, is_full):
        assert request.purpose is Purpose.EMBEDDING
        if self.error:
            listener(Failed(VkbackendError(self.error)))
        else:
            listener(PromptEmbedding(np.array([len(request.prompt.text.encode()), *self.more], np.float32)))
            listener(Finished(FinishReason.STOP, len(request.prompt), 0.1, 0, 0.0, []))
        return self

    def cancel(self):
        pass


def recorded_gguf(path, architecture):
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(10)
    if architecture == "bert":
        writer.add_uint32("bert.pooling_type", 1)
    for name, token_id in MARKS[architecture].items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token_id)
    writer.add_tensor("token_embd.weight", np.zeros((1, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


class Served:
    """The application over a store, with models made of GGUF files on first use."""

    def __init__(self, folder, load):
        self.folder, self.load, self.made = folder, load, set()

    async def __aenter__(self):
        store = Store(self.folder / "models")
        self.client = TestClient(TestServer(build_app(store, LoadedModels(store, LoaderOf(self.load)))))
        await self.client.start_server()
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    async def make(self, name, contents):
        if name not in self.made:
            digest = "sha256:" + hashlib.sha256(contents).hexdigest()
            assert (await self.client.post(f"/api/blobs/{digest}", data=contents)).status in (200, 201)
            answer = await self.client.post(
                "/api/create", json={"model": name, "files": {"m.gguf": digest}, "stream": False}
            )
            assert answer.status == 200, await answer.text()
            self.made.add(name)

    async def ask(self, path, **body):
        answer = await self.client.post(path, json=body)
        return answer.status, await answer.json()
