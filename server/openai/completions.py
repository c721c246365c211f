"""Answers of /v1/completions: native ones, one stream of them per choice, whole or in chunks.

Choices of the same prompt stand together; a prompt that several choices share counts once in the figures.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing

from .. import pools
from ..wire.native import GenerateResponse
from ..wire.openai import Completion, CompletionChoice, CompletionChunk
from . import answers
from .choices import interleave
from .legacy_logprobs import LegacyWriter
from .requests import Extras

MANY = 64  # log-probabilities that are written in a thread of their own


def whole(id: str, found: list[GenerateResponse], extras: Extras) -> Completion:
    """All answers, each of which is whole, in one."""
    choices = [_choice(index, answer, LegacyWriter(extras.logprobs or 0), extras) for index, answer in enumerate(found)]
    prompt_tokens = sum(answer.prompt_eval_count for answer in found[:: extras.num_choices])
    figures = answers.usage(prompt_tokens, sum(answer.eval_count for answer in found))
    return answers.completion(id, found[0].created_at, found[0].model, choices, figures)


async def chunks(
    id: str, streams: list[AsyncIterator[GenerateResponse]], extras: Extras, include_usage: bool
) -> AsyncIterator[CompletionChunk]:
    """The pieces of all choices as they come; figures, where they are asked for, are zeros until one more chunk
    without choices.
    """
    writers = [LegacyWriter(extras.logprobs or 0) for _ in streams]
    prompt_tokens, completion_tokens, model = 0, 0, ""
    async with aclosing(interleave(streams)) as pieces:
        async for index, piece in pieces:
            zeros = answers.usage(0, 0) if include_usage else None
            parts = index, piece, writers[index], extras
            # A whole prompt's log-probabilities must not hold up other clients.
            choice = (
                await pools.run("answers", _choice, *parts) if len(piece.logprobs or ()) > MANY else _choice(*parts)
            )
            yield answers.completion_chunk(id, piece.model, [choice], zeros)
            if piece.done:
                model = piece.model
                prompt_tokens += piece.prompt_eval_count if index % extras.num_choices == 0 else 0
                completion_tokens += piece.eval_count
    if include_usage:
        yield answers.completion_chunk(id, model, [], answers.usage(prompt_tokens, completion_tokens))


def broken_chunk(id: str) -> CompletionChunk:
    return answers.completion_chunk(id, "", [CompletionChoice()], None)


def _choice(index: int, answer: GenerateResponse, writer: LegacyWriter, extras: Extras) -> CompletionChoice:
    shows_logprobs = extras.logprobs is not None and answer.logprobs
    return CompletionChoice(
        answer.response, index, answer.done_reason or None, writer.write(answer.logprobs) if shows_logprobs else None
    )
