"""Answers of /v1/chat/completions: the native chat's, once per choice, whole or in chunks."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from ..wire.native import ChatResponse
from ..wire.openai import ChatCompletionChunk
from . import answers
from .choices import interleave


async def chunks(
    id: str, streams: list[AsyncIterator[ChatResponse]], include_usage: bool
) -> AsyncIterator[ChatCompletionChunk]:
    """The pieces of all choices as they come; figures, where they are asked for, in one more chunk without choices."""
    called, prompt_tokens, completion_tokens, model = set(), 0, 0, ""
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
