"""Answers of /v1/chat/completions in chunks, made of the native chat's: one stream per choice."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..wire.native import ChatResponse
from ..wire.openai import ChatCompletionChunk
from . import answers
from .choices import interleave


async def chunks(
    id: str, streams: list[AsyncGenerator[ChatResponse, None]], include_usage: bool
) -> AsyncGenerator[ChatCompletionChunk, None]:
    """The pieces of all choices as they come, then, if usage is asked for, one more chunk with it and no choices."""
    called: set[int] = set()  # choices that called a tool
    prompt_tokens, completion_tokens, model = 0, 0, ""
    async with aclosing(interleave(streams)) as pieces:
        async for index, piece in pieces:
            if piece.message.tool_calls:
                called.add(index)
            yield answers.chat_chunk(id, index, piece, index in called)
            if piece.done:
                model, prompt_tokens = piece.model, piece.prompt_eval_count
                completion_tokens += piece.eval_count
    if include_usage:
        yield answers.chat_usage_chunk(id, model, answers.usage(prompt_tokens, completion_tokens))


def broken_chunk(id: str) -> ChatCompletionChunk:
    return answers.chat_chunk(id, 0, ChatResponse(), False)
