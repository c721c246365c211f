"""Completions that the native API does not know: prompts taken as they are (`raw`), as token ids, or sent back with
their log-probabilities (`echo`).

In: one prompt of a request. Out: native answers, as routes/generate.py makes them; with `echo` the first one holds
the prompt.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from aiohttp import web

from vkbackend.engine.prompt import token_ids
from vkbackend.engine.request import Finished, Piece, PromptLogprobs, Purpose

from .. import pools
from ..errors import ApiError
from ..generation import events
from ..generation.plan import check_top_logprobs, make_plan
from ..generation.run import Run
from ..go.encode import now
from ..http import limits, streams
from ..http.keys import LOADED_MODELS, STORE
from ..library.store import InvalidName
from ..wire import native
from ..wire.native import GenerateRequest, GenerateResponse
from .requests import Extras


async def answers(
    request: web.Request, ask: GenerateRequest, prompt: str | list[int], extras: Extras, started: float
) -> AsyncIterator[GenerateResponse]:
    """ask: of model, options and log-probabilities. Nothing is generated where num_predict is 0; a prompt that is
    echoed is never cut.

    Raises ApiError, ModelNotFound and VkbackendError.
    """
    check_top_logprobs(ask)
    limits.check(ask)
    if ask.suffix:
        raise ApiError(
            400, "suffix: text before a given end needs the model's template; leave out echo, raw and token ids"
        )
    try:
        stored = request.app[STORE].get(ask.model)
    except InvalidName:
        raise ApiError(404, f"model '{ask.model}' not found") from None
    plan = await make_plan(stored, ask, [], "generate", started)
    async with request.app[LOADED_MODELS].acquire(stored, plan.options, None) as model:
        run = await pools.run(pools.of_prompt(), _make_run, plan, model, ask, prompt, extras, request)
        async with aclosing(_run(run, ask, prompt, extras, request)) as found:
            async for answer in found:
                yield answer


def _make_run(plan, model, ask, prompt, extras, request) -> Run:
    if extras.echo:  # never cut
        ask = replace(ask, truncate=False)
    run = Run(plan, model, ask, prompt if isinstance(prompt, str) else "", request)
    tokens = token_ids(run.generation.prompt) if isinstance(prompt, str) else prompt
    unknown = next((token for token in tokens if token >= model.tokenizer.vocab_size), None)
    if unknown is not None:
        raise ApiError(400, f"prompt: token {unknown} is not in the model's vocabulary of {model.tokenizer.vocab_size}")
    is_scored = extras.echo and extras.logprobs is not None and len(tokens) > 1
    run.generation = replace(
        run.generation,
        prompt=tokens,
        prompt_logprobs=is_scored,
        truncate=run.generation.truncate and not extras.echo,
        purpose=Purpose.SCORE if ask.options.get("num_predict") == 0 else Purpose.TEXT,
    )
    return run


async def _run(run: Run, ask, prompt, extras, request) -> AsyncIterator[GenerateResponse]:
    tokens, generates = token_ids(run.generation.prompt), run.generation.purpose is Purpose.TEXT
    echoes = extras.echo and not run.generation.prompt_logprobs
    async for event in events.engine_events(run.model.engine, run.generation, lambda: streams.has_left(request)):
        if echoes:  # not before the engine has taken the prompt: what it refuses must not begin an answer
            echoes = False
            logprobs = [] if extras.logprobs is None else _echoed(run.model.tokenizer, tokens, prompt, [])
            yield _answer(ask, prompt_text(run.model.tokenizer, prompt), logprobs)
        if isinstance(event, Piece):
            yield _answer(ask, event.text, events.logprobs(event.logprobs))
        elif isinstance(event, PromptLogprobs) and run.generation.prompt_logprobs:
            shown = await pools.run("answers", _echoed, run.model.tokenizer, tokens, prompt, event.logprobs)
            yield _answer(ask, prompt_text(run.model.tokenizer, prompt), shown)
        elif isinstance(event, Finished):
            if event.reason == "cancelled":
                raise ApiError(503, "the model was unloaded while it answered; send the request again")
            # An end token, too, is one of the tokens asked for: who leaves out the last entry, as evaluations do, must
            # not lose one of the prompt.
            end = [event.end] if event.end and run.generation.prompt_logprobs else []
            last = run.finished(_answer(ask, "", [replace(token, bytes=[]) for token in events.logprobs(end)]), event)
            last.done_reason = last.done_reason if generates else "length"
            yield last


def _answer(ask, text: str, logprobs: list[native.Logprob]) -> GenerateResponse:
    return GenerateResponse(model=ask.model, created_at=now(), response=text, logprobs=logprobs)


def prompt_text(tokenizer, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt).decode("utf-8", "replace")


def _echoed(tokenizer: Any, tokens: Sequence[int], prompt: str | list[int], logprobs: list) -> list[native.Logprob]:
    """The prompt's tokens as parts of its text: what a tokenizer adds to a text takes no place in it."""
    entries = [_first_token(tokenizer, tokens[0], prompt), *events.logprobs(logprobs)]
    if not isinstance(prompt, str) or not tokenizer.adds_spaces:
        return entries
    return [
        entry
        if not entry.bytes or bytes(entry.bytes) == span
        else replace(entry, token=span.decode("utf-8", "replace"), bytes=list(span))
        for entry, span in zip(entries, tokenizer.spans(prompt, tokens))
    ]


def _first_token(tokenizer, token: int, prompt: str | list[int]) -> native.Logprob:
    """Nothing comes before it that could make it likely. One that the tokenizer put before a text takes no place in
    it.
    """
    data = tokenizer.token_bytes(token)
    is_added = isinstance(prompt, str) and tokenizer.adds_bos and token == tokenizer.bos_id
    return native.Logprob(data.decode("utf-8", "replace"), None, [] if is_added else list(data))
