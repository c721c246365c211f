"""Native answers in OpenAI's shapes.

In: ChatResponse, GenerateResponse, EmbedResponse, model names. Out: dataclasses of wire/openai.py. Pure functions:
the caller provides the answer's id and the number of the choice.
"""

import calendar
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..go import encode
from ..library.names import parse_name
from ..wire import native, openai

FINGERPRINT = "fp_ollama"


def new_id(kind: str) -> str:
    """Id of an answer; `kind` is "chatcmpl" or "cmpl"."""
    return f"{kind}-{random.randrange(999)}"


def unix_seconds(moment: str) -> int:
    """Seconds since 1970 of a time as `encode.rfc3339_nano` writes it."""
    zone = "+00:00" if moment.endswith("Z") else moment[-6:]
    offset = (int(zone[1:3]) * 60 + int(zone[4:6])) * 60
    seconds = calendar.timegm(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S"))
    return seconds - (offset if zone[0] == "+" else -offset)


def usage(prompt_tokens: int, completion_tokens: int) -> openai.Usage:
    """Token counts, with their sum."""
    return openai.Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)


# --- chat


def tool_calls(calls: Iterable[native.ToolCall] | None) -> list[openai.ToolCall] | None:
    """Tool calls with their arguments as JSON text; None if there are none."""

    def converted(call: native.ToolCall) -> openai.ToolCall:
        function = openai.ToolCallFunction(call.function.name, encode.dumps(call.function.arguments))
        return openai.ToolCall(call.id, call.function.index, "function", function)

    return [converted(call) for call in calls or ()] or None


def _message(message: native.Message, role: str) -> openai.Message:
    return openai.Message(
        role=role, content=message.content, reasoning=message.thinking, tool_calls=tool_calls(message.tool_calls)
    )


def _logprobs(logprobs: list[native.Logprob] | None) -> openai.ChoiceLogprobs | None:
    return openai.ChoiceLogprobs(logprobs) if logprobs else None


def chat_choice(index: int, answer: native.ChatResponse) -> openai.Choice:
    """One answer as choice `index`."""
    reason = "tool_calls" if answer.message.tool_calls else answer.done_reason
    return openai.Choice(
        index, _message(answer.message, answer.message.role), reason or None, _logprobs(answer.logprobs)
    )


def chat_completion(id: str, answers: Sequence[native.ChatResponse]) -> openai.ChatCompletion:
    """All answers to a request as its choices; `usage` counts their shared prompt once."""
    first = answers[0]
    return openai.ChatCompletion(
        id,
        "chat.completion",
        unix_seconds(first.created_at),
        first.model,
        FINGERPRINT,
        [chat_choice(index, answer) for index, answer in enumerate(answers)],
        usage(first.prompt_eval_count, sum(answer.eval_count for answer in answers)),
        first.debug_info,
    )


def chat_chunk(id: str, index: int, piece: native.ChatResponse, has_called: bool) -> openai.ChatCompletionChunk:
    """A piece of choice `index`. has_called: whether this piece or an earlier one called a tool."""
    reason = "tool_calls" if has_called and piece.done_reason else piece.done_reason
    choice = openai.ChunkChoice(index, _message(piece.message, "assistant"), reason or None, _logprobs(piece.logprobs))
    return openai.ChatCompletionChunk(id, "chat.completion.chunk", int(time.time()), piece.model, FINGERPRINT, [choice])


def chat_usage_chunk(id: str, model: str, figures: openai.Usage) -> openai.ChatCompletionChunk:
    """The chunk of `stream_options.include_usage`, without choices."""
    return openai.ChatCompletionChunk(id, "chat.completion.chunk", int(time.time()), model, FINGERPRINT, [], figures)


# --- completions


def completion(
    id: str, created_at: str, model: str, choices: list[openai.CompletionChoice], figures: openai.Usage
) -> openai.Completion:
    """An answer of /v1/completions."""
    return openai.Completion(id, "text_completion", unix_seconds(created_at), model, FINGERPRINT, choices, figures)


def completion_chunk(
    id: str, model: str, choices: list[openai.CompletionChoice], figures: openai.Usage | None
) -> openai.CompletionChunk:
    """A chunk of /v1/completions. figures: None unless usage was requested, zeros before the end."""
    return openai.CompletionChunk(id, "text_completion", int(time.time()), choices, model, FINGERPRINT, figures)


# --- embeddings


def embedding_list(model: str, answer: native.EmbedResponse, encoding_format: str) -> openai.EmbeddingList:
    """An answer of /v1/embeddings. model: as in the request; encoding_format: "base64" or anything else."""
    if answer.embeddings is None:
        return openai.EmbeddingList()
    as_bytes = encoding_format.lower() == "base64"
    data = [
        openai.Embedding("embedding", _vector(vector, as_bytes), index)
        for index, vector in enumerate(answer.embeddings)
    ]
    return openai.EmbeddingList(
        "list", data or None, model, openai.EmbeddingUsage(answer.prompt_eval_count, answer.prompt_eval_count)
    )


def _vector(vector: Any, as_bytes: bool) -> np.ndarray | bytes:
    numbers = np.asarray(vector, "<f4")
    return numbers.tobytes() if as_bytes else numbers


# --- models


def model(name: str, modified_at: str) -> openai.Model:
    """A model as /v1/models lists it."""
    return openai.Model(name, "model", unix_seconds(modified_at), parse_name(name).namespace)


def model_list(listed: native.ListResponse) -> openai.ModelList:
    """The answer of /v1/models."""
    return openai.ModelList("list", [model(entry.name, entry.modified_at) for entry in listed.models or ()] or None)
