"""Completions that the native API does not have: verbatim prompts (`raw`), token ids, and prompts with scores (`echo`).

In: one prompt of a request. Out: native answers, like those of /api/generate; with `echo` the first one is the prompt.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from vkbackend.engine.prompt import token_ids
from vkbackend.engine.request import Finished, Piece, PromptLogprobs, Purpose, ScoredToken
from vkbackend.tokenizer import Tokenizer

from .. import pools
from ..errors import ApiError
from ..generation import events
from ..generation.completion import find_model
from ..generation.plan import Plan, check_top_logprobs, make_plan
from ..generation.request_context import RequestContext
from ..generation.run import UNLOADED, Run
from ..generation.tokens import PromptTokens
from ..go.encode import now
from ..loading.loaded_model import LoadedModel
from ..wire import limits, native
from ..wire.native import GenerateRequest, GenerateResponse
from .requests import Extras


async def answers(
    context: RequestContext, ask: GenerateRequest, prompt: str | list[int], extras: Extras
) -> AsyncGenerator[GenerateResponse, None]:
    """Answers to `prompt`; `ask` has model, options and log-probabilities.

    With num_predict 0 nothing is generated. An echoed prompt is never truncated. Raises ApiError, ModelNotFound and
    VkbackendError.
    """
    check_top_logprobs(ask)
    limits.check(ask)
    if ask.suffix:
        raise ApiError(
            400, "suffix needs the model's template, which echo, raw and token ids do not use; leave one of them out"
        )
    stored = find_model(context.store, ask.model)
    plan = await make_plan(stored, ask, [], "generate", context.started)
    async with context.loaded_models.acquire(stored, plan.options, None) as model:
        run = await pools.run(pools.of_prompt(), _make_run, plan, model, ask, prompt, extras, context)
        async with aclosing(_run(run, ask, prompt, extras)) as found:
            async for answer in found:
                yield answer


def _make_run(
    plan: Plan,
    model: LoadedModel,
    ask: GenerateRequest,
    prompt: str | list[int],
    extras: Extras,
    context: RequestContext,
) -> Run:
    if extras.echo:
        ask = replace(ask, truncate=False)
    text = prompt if isinstance(prompt, str) else ""
    run = Run(plan, model, ask, text, PromptTokens(model.tokenizer), context.client_left)
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
        purpose=Purpose.SCORE if (ask.options or {}).get("num_predict") == 0 else Purpose.TEXT,
    )
    return run


async def _run(
    run: Run, ask: GenerateRequest, prompt: str | list[int], extras: Extras
) -> AsyncGenerator[GenerateResponse, None]:
    tokenizer = run.model.tokenizer
    tokens = token_ids(run.generation.prompt) if isinstance(prompt, str) else prompt
    generates = run.generation.purpose is Purpose.TEXT
    echoes = extras.echo and not run.generation.prompt_logprobs
    async for event in events.engine_events(run.model.engine, run.generation, run.client_left):
        if echoes:  # only once the engine has accepted the prompt: a refusal must not follow the start of an answer
            echoes = False
            logprobs = [] if extras.logprobs is None else _echoed(tokenizer, tokens, prompt, [])
            yield _answer(ask, prompt_text(tokenizer, prompt), logprobs)
        if isinstance(event, Piece):
            yield _answer(ask, event.text, events.logprobs(event.logprobs))
        elif isinstance(event, PromptLogprobs) and run.generation.prompt_logprobs:
            shown = await pools.run("answers", _echoed, tokenizer, tokens, prompt, event.logprobs)
            yield _answer(ask, prompt_text(tokenizer, prompt), shown)
        elif isinstance(event, Finished):
            if event.reason == "cancelled":
                raise ApiError(503, UNLOADED)
            # The end token counts as a requested token: lm-eval drops the last entry, which must not be a prompt token.
            end = [event.end] if event.end and run.generation.prompt_logprobs else []
            last = _answer(ask, "", [replace(token, bytes=[]) for token in events.logprobs(end)])
            run.finish(last, event)
            last.done_reason = last.done_reason if generates else "length"
            yield last


def _answer(ask: GenerateRequest, text: str, logprobs: list[native.Logprob]) -> GenerateResponse:
    return GenerateResponse(model=ask.model, created_at=now(), response=text, logprobs=logprobs)


def prompt_text(tokenizer: Tokenizer, prompt: str | list[int]) -> str:
    """The prompt as text."""
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt).decode("utf-8", "replace")


def _echoed(
    tokenizer: Tokenizer, tokens: Sequence[int], prompt: str | list[int], logprobs: list[ScoredToken]
) -> list[native.Logprob]:
    """Log-probabilities of the prompt's tokens; characters that the tokenizer added take no space in the text."""
    entries = [_first_token(tokenizer, tokens[0], prompt), *events.logprobs(logprobs)]
    if not isinstance(prompt, str) or not tokenizer.adds_spaces:
        return entries
    return [
        entry
        if not entry.bytes or bytes(entry.bytes) == span
        else replace(entry, token=span.decode("utf-8", "replace"), bytes=list(span))
        for entry, span in zip(entries, tokenizer.spans(prompt, tokens))
    ]


def _first_token(tokenizer: Tokenizer, token: int, prompt: str | list[int]) -> native.Logprob:
    """Entry of the first token: no log-probability, and no bytes if the tokenizer added it to a text."""
    data = tokenizer.token_bytes(token)
    is_added = isinstance(prompt, str) and tokenizer.adds_bos and token == tokenizer.bos_id
    return native.Logprob(data.decode("utf-8", "replace"), None, [] if is_added else list(data))
