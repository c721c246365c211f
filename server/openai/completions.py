"""Answers of /v1/completions, whole or streamed, made from native ones: one stream per choice.

Choices of the same prompt are adjacent; a prompt that several choices share counts once in the usage.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from .. import pools
from ..generation.completion import CompletionTurn
from ..generation.request_context import RequestContext
from ..wire.native import GenerateResponse
from ..wire.openai import Completion, CompletionChoice, CompletionChunk, CompletionRequest
from . import answers, requests, scored
from .choices import interleave, pieces
from .legacy_logprobs import LegacyWriter
from .requests import Extras

MANY_LOGPROBS = 64  # more of them in one piece are written in a thread, so that other clients do not wait


def streams(context: RequestContext, asked: CompletionRequest) -> list[AsyncGenerator[GenerateResponse, None]]:
    """Native answers to each prompt of a request, one stream per choice. Raises InvalidRequest."""
    asks = requests.generate_requests(asked)
    extras = requests.extras(asked)
    return [
        scored.answers(context, ask, prompt, extras)
        if asked.echo or asked.raw or not isinstance(prompt, str)
        else pieces(context, CompletionTurn(replace(ask, prompt=prompt)))
        for prompt in requests.prompts(asked.prompt, extras.num_choices)
        for ask in asks
    ]


def whole(id: str, found: list[GenerateResponse], extras: Extras) -> Completion:
    """One answer with all choices, from one whole native answer per choice."""
    choices = [_choice(index, answer, LegacyWriter(extras.logprobs or 0), extras) for index, answer in enumerate(found)]
    prompt_tokens = sum(answer.prompt_eval_count for answer in found[:: extras.num_choices])
    figures = answers.usage(prompt_tokens, sum(answer.eval_count for answer in found))
    return answers.completion(id, found[0].created_at, found[0].model, choices, figures)


async def chunks(
    id: str, streams: list[AsyncGenerator[GenerateResponse, None]], extras: Extras, include_usage: bool
) -> AsyncGenerator[CompletionChunk, None]:
    """Pieces of all choices in the order in which they arrive.

    With `include_usage` their usage is zero, and one more chunk without choices has the real one.
    """
    writers = [LegacyWriter(extras.logprobs or 0) for _ in streams]
    prompt_tokens = 0
    completion_tokens = 0
    model = ""
    async with aclosing(interleave(streams)) as pieces:
        async for index, piece in pieces:
            zeros = answers.usage(0, 0) if include_usage else None
            parts = index, piece, writers[index], extras
            if len(piece.logprobs or ()) > MANY_LOGPROBS:
                choice = await pools.run("answers", _choice, *parts)
            else:
                choice = _choice(*parts)
            yield answers.completion_chunk(id, piece.model, [choice], zeros)
            if piece.done:
                model = piece.model
                prompt_tokens += piece.prompt_eval_count if index % extras.num_choices == 0 else 0
                completion_tokens += piece.eval_count
    if include_usage:
        yield answers.completion_chunk(id, model, [], answers.usage(prompt_tokens, completion_tokens))


def broken_chunk(id: str) -> CompletionChunk:
    """Last chunk of a stream that failed."""
    return answers.completion_chunk(id, "", [CompletionChoice()], None)


def _choice(index: int, answer: GenerateResponse, writer: LegacyWriter, extras: Extras) -> CompletionChoice:
    logprobs = writer.write(answer.logprobs) if extras.logprobs is not None and answer.logprobs else None
    return CompletionChoice(answer.response, index, answer.done_reason or None, logprobs)
