"""Embeddings of texts, for /api/embed, /api/embeddings and /v1/embeddings.

In: texts and the name of a model. Out: the model's last hidden state for each text, and the number of their tokens.
A text that is longer than the context is cut at its end, or refused. Raises ApiError in the words of Ollama 0.12.11.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vkbackend.engine.request import GenerationRequest, PromptEmbedding, Purpose
from vkbackend.errors import RequestError, VkbackendError
from vkbackend.gguf.reader import GGUFFile, Metadata
from vkbackend.tokenizer import Tokenizer
from vkbackend.tokenizer.long_texts import encode_at_most

from .. import pools
from ..errors import ApiError
from ..go import encode
from ..go.text import quote
from ..library.model import InvalidName, ModelNotFound, StoredModel
from ..library.names import parse_name
from ..loading.loaded_model import LoadedModel
from ..wire.native import EmbeddingRequest, EmbeddingResponse, EmbedRequest, EmbedResponse
from ..wire.options import Options
from .events import engine_events, nanoseconds
from .request_context import RequestContext
from .run import UNLOADED

if TYPE_CHECKING:  # commands that generate nothing start without the engine
    from vkbackend.engine.engine import Engine

AT_ONCE = 64  # texts of one request that the engine holds at the same time


@dataclass
class Embedded:
    """vectors: f32 (width,) each, in the order of the texts. num_tokens: of the texts, without the special tokens that
    the model adds, as Ollama counts them. load_seconds: from the request until the model was loaded.
    """

    vectors: list[np.ndarray]
    num_tokens: int
    load_seconds: float


async def embed_many(context: RequestContext, ask: EmbedRequest) -> EmbedResponse:
    """The answer of /api/embed: vectors of unit length. Raises ApiError and VkbackendError."""
    found = await embed(
        context,
        ask.model,
        texts(ask.input),
        truncate=ask.truncate is not False,
        dimensions=ask.dimensions,
        options=ask.options,
        keep_alive=ask.keep_alive,
    )
    if not found.vectors:
        return EmbedResponse(model=ask.model, embeddings=[])
    total = nanoseconds(time.monotonic() - context.started)
    return EmbedResponse(ask.model, found.vectors, total, nanoseconds(found.load_seconds), found.num_tokens)


async def embed_one(context: RequestContext, ask: EmbeddingRequest) -> EmbeddingResponse:
    """The answer of /api/embeddings: one vector, not scaled; without a prompt, an empty one. Raises ApiError and
    VkbackendError.
    """
    if not parse_name(ask.model).is_valid:
        raise ApiError(400, "model is required")
    found = await embed(
        context,
        ask.model,
        [ask.prompt] if ask.prompt else [],
        options=ask.options,
        keep_alive=ask.keep_alive,
        normalized=False,
    )
    return EmbeddingResponse(found.vectors[0].astype(np.float64) if found.vectors else np.zeros(0))


def texts(value: object) -> list[str]:
    """`input` of a request: a text (an empty one means none), or a list of texts."""
    if value is None or value == "":
        return []
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ApiError(400, "invalid input type")
    return found


async def embed(
    context: RequestContext,
    model_name: str,
    texts: list[str],
    *,
    truncate: bool = True,
    dimensions: int = 0,
    options: dict | None = None,
    keep_alive: int | None = None,
    normalized: bool = True,
) -> Embedded:
    """Vectors of texts; without texts, the model is only loaded. dimensions: elements to keep of each vector, all of
    them if it is 0, negative, or more than there are. normalized: scale to unit length.

    Raises ApiError (no such model, an option of a wrong type, a text that is too long) and VkbackendError.
    """
    try:
        stored = context.store.get(model_name)
    except (InvalidName, ModelNotFound):
        raise ApiError(404, f"model {quote(model_name)} not found, try pulling it first") from None
    try:
        chosen = Options.defaults().update(stored.parameters).update(options)
    except ValueError as error:
        raise ApiError(500, str(error)) from None
    num_ctx = chosen.num_ctx  # before `acquire` raises it to the smallest that it loads
    async with context.loaded_models.acquire(stored, chosen, keep_alive) as model:
        load_seconds = time.monotonic() - context.started
        prompts = await pools.run(pools.of_prompt(), _prompts, stored, model, texts, num_ctx, truncate) if texts else []
        vectors = await _run_all(model.engine, [tokens for tokens, _ in prompts], context.client_left)
    if normalized:
        vectors = await pools.run("answers", _normalized, vectors, dimensions)
    return Embedded(vectors, sum(count for _, count in prompts), load_seconds)


def _normalized(vectors: list[np.ndarray], dimensions: int) -> list[np.ndarray]:
    vectors = [normalize(vector) for vector in vectors]
    return [normalize(vector[:dimensions]) if 0 < dimensions < len(vector) else vector for vector in vectors]


def normalize(vector: np.ndarray) -> np.ndarray:
    """Scale to unit length, in f32 as Ollama does: a vector whose squared length overflows f32 becomes zero."""
    with np.errstate(over="ignore", divide="ignore"):
        total = np.cumsum(vector * vector, dtype=np.float32)[-1] if len(vector) else np.float32(0)
        return vector * np.float32(1 / np.sqrt(np.float64(total)) if total > 0 else 0)


def _prompts(
    stored: StoredModel, model: LoadedModel, texts: list[str], num_ctx: int, truncate: bool
) -> list[tuple[list[int], int]]:
    if model.gguf is not None:
        metadata = model.gguf.metadata
    else:
        assert stored.gguf_path is not None, "a loaded model has a file"
        metadata = GGUFFile.open(stored.gguf_path).metadata
    return [_prompt(metadata, model.tokenizer, text, num_ctx, truncate) for text in texts]


def _prompt(metadata: Metadata, tokenizer: Tokenizer, text: str, num_ctx: int, truncate: bool) -> tuple[list[int], int]:
    """A text's tokens, at most as many as the context holds, and how many it has without special tokens. As in Ollama,
    one place is reserved for each of bos and eos that the text lacks, even if the model wants none.
    """
    architecture = metadata.get("general.architecture", str, "")
    tokens = encode_at_most(tokenizer, text, num_ctx + 1, num_ctx, add_special=False)
    limit = min(num_ctx, metadata.get(f"{architecture}.context_length", int, num_ctx))
    for name, index in (("bos", 0), ("eos", -1)):
        mark = metadata.get(f"tokenizer.ggml.{name}_token_id", int, 0)
        if tokens and tokens[index] != mark and metadata.get(f"{architecture}.add_{name}_token", bool, True):
            limit -= 1
    if len(tokens) <= limit:
        return tokenizer.with_special(tokens), len(tokens)
    if not truncate:
        raise ApiError(400, "input exceeds maximum context length")
    if limit <= 0:
        raise ApiError(400, "input after truncation exceeds maximum context length")
    return tokenizer.encode(tokenizer.decode(tokens[:limit]).decode("utf-8", "replace")), limit


async def _run_all(engine: "Engine", prompts: list[list[int]], client_left: Callable[[], bool]) -> list[np.ndarray]:
    """The vector of each prompt; they share the engine's steps. The first that fails ends the others."""
    found = [np.zeros(0)] * len(prompts)
    waiting = iter(enumerate(prompts))

    async def run() -> None:
        for place, prompt in waiting:
            found[place] = await _run(engine, prompt, client_left)

    tasks = [asyncio.create_task(run()) for _ in range(min(AT_ONCE, len(prompts)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return found


async def _run(engine: "Engine", prompt: list[int], client_left: Callable[[], bool]) -> np.ndarray:
    vector = None
    events = engine_events(engine, GenerationRequest(prompt, purpose=Purpose.EMBEDDING), client_left)
    try:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, PromptEmbedding):
                    vector = event.vector
    except RequestError as error:
        if not prompt:  # an empty text, and a model that adds no token to it
            raise ApiError(500, "Failed to create new sequence: no input provided") from None
        raise ApiError(400, str(error)) from None
    except VkbackendError as error:
        raise ApiError(500, str(error).strip()) from None
    if vector is None:
        raise ApiError(503, UNLOADED)
    unsupported = vector[~np.isfinite(vector)]
    if len(unsupported):  # JSON has no text for them, and base64 would hide them
        raise encode.UnsupportedValue(float(unsupported[0]))
    return vector
