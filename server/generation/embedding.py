"""Texts -> vectors: what /api/embed, /api/embeddings and /v1/embeddings have in common.

In: a loaded model and texts. Out: the model's last hidden state for each of them, and how many tokens ran. A text
that is longer than the context is cut at its end, or refused. Raises ApiError in the words of Ollama 0.12.11.
"""

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
from aiohttp import web

from vkbackend.engine.request import Embedding, GenerationRequest, Purpose
from vkbackend.errors import RequestError, VkbackendError
from vkbackend.gguf.reader import GGUFFile
from vkbackend.tokenizer.long_texts import encode_at_most

from .. import pools
from ..errors import ApiError
from ..go import encode
from ..go.text import quote
from ..http.keys import LOADED_MODELS, STORE
from ..http.streams import has_left
from ..library.model import ModelNotFound
from ..library.store import InvalidName, StoredModel
from ..wire.options import Options
from .events import engine_events

AT_ONCE = 64  # texts of one request that are in the engine's hands


@dataclass
class Embedded:
    """vectors: f32 (width,) each, in the order of the texts. load_seconds: until the model was there."""

    vectors: list[np.ndarray]
    num_tokens: int
    load_seconds: float


async def embed(
    request: web.Request,
    model_name: str,
    texts: list[str],
    *,
    truncate: bool = True,
    dimensions: int = 0,
    options: dict | None = None,
    keep_alive: int | None = None,
    normalized: bool = True,
) -> Embedded:
    """Without texts, the model is loaded and that is all. dimensions: elements that are kept of each vector; all
    where it is 0, below, or more than there are. normalized: to unit length.

    Raises ApiError: no such model, an option of a wrong type, a text that is too long; VkbackendError.
    """
    started = time.monotonic()
    try:
        stored = request.app[STORE].get(model_name)
    except (InvalidName, ModelNotFound):
        raise ApiError(404, f"model {quote(model_name)} not found, try pulling it first") from None
    try:
        chosen = Options.defaults().update(stored.parameters).update(options)
    except ValueError as error:
        raise ApiError(500, str(error)) from None
    num_ctx = chosen.num_ctx  # as asked for: a loaded model has some at least
    async with request.app[LOADED_MODELS].acquire(stored, chosen, keep_alive) as model:
        load_seconds = time.monotonic() - started
        prompts = await pools.run(pools.of_prompt(), _prompts, stored, model, texts, num_ctx, truncate) if texts else []
        found = await _run_all(model.engine, prompts, lambda: has_left(request))
    vectors = [vector for vector, _ in found]
    if normalized:
        vectors = [normalize(vector) for vector in vectors]
        vectors = [normalize(vector[:dimensions]) if 0 < dimensions < len(vector) else vector for vector in vectors]
    return Embedded(vectors, sum(count for _, count in found), load_seconds)


def normalize(vector: np.ndarray) -> np.ndarray:
    """To unit length, in f32 as Ollama does it: what is too long for a square's f32 becomes zero."""
    with np.errstate(over="ignore", divide="ignore"):
        total = np.cumsum(vector * vector, dtype=np.float32)[-1] if len(vector) else np.float32(0)
        return vector * np.float32(1 / np.sqrt(np.float64(total)) if total > 0 else 0)


def _prompts(stored: StoredModel, model, texts: list[str], num_ctx: int, truncate: bool) -> list[list[int]]:
    metadata = (model.gguf or GGUFFile.open(stored.gguf_path)).metadata
    return [_prompt(metadata, model.tokenizer, text, num_ctx, truncate) for text in texts]


def _prompt(metadata, tokenizer, text: str, num_ctx: int, truncate: bool) -> list[int]:
    """A text's tokens, at most as many as the context holds. As in Ollama, a place is kept for each of the two marks
    that the text lacks, even where the model wants none.
    """
    architecture = metadata.get("general.architecture", str, "")
    tokens = encode_at_most(tokenizer, text, num_ctx + 1, num_ctx, add_special=False)
    limit = min(num_ctx, metadata.get(f"{architecture}.context_length", int, num_ctx))
    for name, index in (("bos", 0), ("eos", -1)):
        mark = metadata.get(f"tokenizer.ggml.{name}_token_id", int, 0)
        if tokens and tokens[index] != mark and metadata.get(f"{architecture}.add_{name}_token", bool, True):
            limit -= 1
    if len(tokens) > limit:
        if not truncate:
            raise ApiError(400, "input exceeds maximum context length")
        if limit <= 0:
            raise ApiError(400, "input after truncation exceeds maximum context length")
        text = tokenizer.decode(tokens[:limit]).decode("utf-8", "replace")
    return tokenizer.encode(text)


async def _run_all(engine, prompts: list[list[int]], client_left) -> list[tuple[np.ndarray, int]]:
    """(vector, tokens that ran) of each prompt; they share the engine's steps. The first that fails ends the others."""
    places = asyncio.Semaphore(AT_ONCE)

    async def run(prompt):
        async with places:
            return await _run(engine, prompt, client_left)

    tasks = [asyncio.create_task(run(prompt)) for prompt in prompts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _run(engine, prompt: list[int], client_left) -> tuple[np.ndarray, int]:
    vector = None
    events = engine_events(engine, GenerationRequest(prompt, purpose=Purpose.EMBEDDING), client_left)
    try:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Embedding):
                    vector = event.vector
                elif vector is None:
                    raise ApiError(503, "the model was unloaded while it answered; send the request again")
    except RequestError as error:
        raise ApiError(400, str(error)) from None
    except VkbackendError as error:
        raise ApiError(500, str(error).strip()) from None
    unsupported = vector[~np.isfinite(vector)]
    if len(unsupported):  # JSON has no text for them, and base64 would hide them
        raise encode.UnsupportedValue(float(unsupported[0]))
    return vector, event.prompt_tokens
