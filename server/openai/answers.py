"""Native answers told in OpenAI's shapes.

In: ChatResponse, GenerateResponse, EmbedResponse, names of models. Out: dataclasses of openai/messages.py. Pure
functions: whoever calls them knows the id of the answer, the number of the choice, and whether it is part of a
stream.
"""

import calendar
import random
import time

import numpy as np

from ..go import encode
from ..library.names import parse
from ..wire import native as messages
from ..wire import openai

FINGERPRINT = "fp_ollama"


def new_id(kind: str) -> str:
    """`kind` is "chatcmpl" or "cmpl"."""
    return f"{kind}-{random.randrange(999)}"


def unix_seconds(moment: str) -> int:
    """Of a time as `go_json.rfc3339_nano` writes it."""
    text, zone = (moment[:-1], "+00:00") if moment.endswith("Z") else (moment[:-6], moment[-6:])
    offset = (int(zone[1:3]) * 60 + int(zone[4:6])) * 60
    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) - (offset if zone[0] == "+" else -offset)


def usage(prompt_tokens: int, completion_tokens: int) -> openai.Usage:
    return openai.Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)


# --- chat


def tool_calls(calls) -> list[openai.ToolCall] | None:
    """Arguments as JSON text."""

    def told(call):
        function = openai.ToolCallFunction(call.function.name, encode.dumps(call.function.arguments))
        return openai.ToolCall(call.id, call.function.index, "function", function)

    return [told(call) for call in calls or ()] or None


def _message(native: messages.Message, role: str) -> openai.Message:
    return openai.Message(
        role=role, content=native.content, reasoning=native.thinking, tool_calls=tool_calls(native.tool_calls)
    )


def _logprobs(native) -> openai.ChoiceLogprobs | None:
    return openai.ChoiceLogprobs(native) if native else None


def chat_choice(index: int, answer: messages.ChatResponse) -> openai.Choice:
    reason = "tool_calls" if answer.message.tool_calls else answer.done_reason
    return openai.Choice(
        index, _message(answer.message, answer.message.role), reason or None, _logprobs(answer.logprobs)
    )


def chat_completion(id: str, answers: list[messages.ChatResponse]) -> openai.ChatCompletion:
    """The prompt, which all answers share, counts once."""
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


def chat_chunk(id: str, index: int, piece: messages.ChatResponse, has_called: bool) -> openai.ChatCompletionChunk:
    """has_called: whether a tool was called in this piece or one before it."""
    reason = "tool_calls" if has_called and piece.done_reason else piece.done_reason
    choice = openai.ChunkChoice(index, _message(piece.message, "assistant"), reason or None, _logprobs(piece.logprobs))
    return openai.ChatCompletionChunk(id, "chat.completion.chunk", int(time.time()), piece.model, FINGERPRINT, [choice])


def chat_usage_chunk(id: str, model: str, figures: openai.Usage) -> openai.ChatCompletionChunk:
    return openai.ChatCompletionChunk(id, "chat.completion.chunk", int(time.time()), model, FINGERPRINT, [], figures)


# --- completions


def completion(
    id: str, created_at: str, model: str, choices: list[openai.CompletionChoice], figures: openai.Usage
) -> openai.Completion:
    return openai.Completion(id, "text_completion", unix_seconds(created_at), model, FINGERPRINT, choices, figures)


def completion_chunk(
    id: str, model: str, choices: list[openai.CompletionChoice], figures: openai.Usage | None
) -> openai.CompletionChunk:
    """figures: None where no usage was asked for, zeros before the end."""
    return openai.CompletionChunk(id, "text_completion", int(time.time()), choices, model, FINGERPRINT, figures)


# --- embeddings


def embedding_list(model: str, answer: messages.EmbedResponse, encoding_format: str) -> openai.EmbeddingList:
    """model: as the request names it."""
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


def _vector(vector, as_bytes: bool):
    numbers = np.asarray(vector, "<f4")
    return numbers.tobytes() if as_bytes else numbers


# --- models


def model(name: str, modified_at: str) -> openai.Model:
    return openai.Model(name, "model", unix_seconds(modified_at), parse(name).namespace)


def model_list(listed: messages.ListResponse) -> openai.ModelList:
    return openai.ModelList("list", [model(entry.name, entry.modified_at) for entry in listed.models or ()] or None)
