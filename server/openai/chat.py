"""Streamed answers of /v1/chat/completions, made from native ones: one stream per choice."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..wire.native import ChatResponse
from ..wire.openai import ChatCompletionChunk
from . import answers
from .choices import interleave


async def chunks(
    id: str, streams: list[AsyncGenerator[ChatResponse, None]], include_usage: bool
) -> AsyncGenerator[ChatCompletionChunk, None]:
    """Pieces of all choices in the order they arrive, then, if requested, a chunk with the usage and no choices."""
    called: set[int] = set()  # choices that called a tool
    prompt_tokens = 0
    completion_tokens = 0
    model = ""
    async with aclosing(interleave(streams)) as pieces:
        async for index, piece in pieces:
            if piece.message.tool_calls:
                called.add(index)
            yield answers.chat_chunk(id, index, piece, index in called)
            if piece.done:
                model = piece.model
                prompt_tokens = piece.prompt_eval_count
                completion_tokens += piece.eval_count
    if include_usage:
        yield answers.chat_usage_chunk(id, model, answers.usage(prompt_tokens, completion_tokens))


def broken_chunk(id: str) -> ChatCompletionChunk:
    """Last chunk of a stream that failed."""
    return answers.chat_chunk(id, 0, ChatResponse(), False)
