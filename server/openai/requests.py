"""Requests of /v1 converted to native ones, as Ollama 0.12.11 converts them.

In: dataclasses of wire/openai.py. Out: dataclasses of wire/native.py, and `Extras`: parameters that OpenAI documents
and Ollama ignores. Raises InvalidRequest, in Ollama's words where Ollama has such an error.
"""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .. import garbage
from ..go.binding import D, bind
from ..go.decode import JSONSyntaxError, Object, parsed
from ..go.encode import RawJSON, compact
from ..go.kinds import BindError, IllegalBase64, State, decode_base64, to_plain
from ..wire import conversation, native, openai
from .errors import InvalidRequest

MAX_CHOICES = 128
IMAGE_TYPES = ("image/jpeg", "image/jpg", "image/png", "image/webp")
EFFORTS = {"high": "high", "medium": "medium", "low": "low", "none": False}


def read(cls: type[D], body: bytes, made: list | None = None) -> D:
    """A request body as a `cls` of wire/openai.py. made: see `binding.bind`."""
    try:
        return bind(cls, body, made)
    except JSONSyntaxError as error:
        raise InvalidRequest("EOF" if error.is_empty_body else str(error)) from None
    except BindError as error:
        raise InvalidRequest(str(error)) from None


@dataclass(frozen=True)
class Extras:
    """Parameters without a native counterpart.

    num_choices: answers per prompt; logit_bias: token id to bias; echo: begin with the prompt and its
    log-probabilities; logprobs: alternatives shown per token on /v1/completions, None for no log-probabilities.
    """

    num_choices: int = 1
    logit_bias: dict[str, float] | None = None
    echo: bool = False
    logprobs: int | None = None


def extras(ask: openai.ChatCompletionRequest | openai.CompletionRequest) -> Extras:
    """The request's extras. Raises InvalidRequest."""
    num_choices = 1 if ask.n is None else ask.n
    if not 1 <= num_choices <= MAX_CHOICES:
        raise InvalidRequest(f"n must be between 1 and {MAX_CHOICES}, not {num_choices}")
    if isinstance(ask, openai.ChatCompletionRequest):
        return Extras(num_choices, ask.logit_bias)
    shown = ask.logprobs if ask.logprobs is not None and ask.logprobs >= 0 else None
    return Extras(num_choices, ask.logit_bias, bool(ask.echo), shown)


def includes_usage(ask: openai.ChatCompletionRequest | openai.CompletionRequest) -> bool:
    """Whether a stream ends with a chunk that has the usage."""
    return ask.stream_options is not None and ask.stream_options.include_usage


Native = TypeVar("Native", native.ChatRequest, native.GenerateRequest)


def _of_choice(ask: Native, extras: Extras, number: int) -> Native:
    """The native request of choice `number`. A seed that was asked for counts up, so that choices differ and can be
    repeated.
    """
    options = ask.options or {}
    seed = options.get("seed", -1)
    more: dict = {"seed": seed + number} if seed >= 0 else {}
    if extras.logit_bias:
        more["logit_bias"] = extras.logit_bias
    return replace(ask, options=options | more)


# --- chat


def chat_requests(ask: openai.ChatCompletionRequest) -> list[native.ChatRequest]:
    """The native requests, one per choice. Raises InvalidRequest."""
    request = chat_request(ask)
    more = extras(ask)
    return [_of_choice(request, more, number) for number in range(more.num_choices)]


def chat_request(ask: openai.ChatCompletionRequest) -> native.ChatRequest:
    """The native request of a chat completion."""
    if not ask.messages:
        raise InvalidRequest("[] is too short - 'messages'")
    options: dict[str, Any] = {
        "temperature": 1.0 if ask.temperature is None else ask.temperature,
        "top_p": 1.0 if ask.top_p is None else ask.top_p,
    }
    if isinstance(ask.stop, str):
        options["stop"] = [ask.stop]
    elif isinstance(ask.stop, list):
        options["stop"] = [text for text in ask.stop if isinstance(text, str)] or None
    _add_numbers(options, ask)
    for name in ("frequency_penalty", "presence_penalty"):
        if getattr(ask, name) is not None:
            options[name] = getattr(ask, name)
    return native.ChatRequest(
        model=ask.model,
        messages=_conversation(ask.messages),
        stream=ask.stream,
        format=_format(ask.response_format),
        tools=ask.tools,
        options=options,
        think=_think(ask),
        debug_render_only=ask.debug_render_only,
        logprobs=bool(ask.logprobs),
        top_logprobs=ask.top_logprobs,
    )


def _add_numbers(options: dict[str, Any], ask: openai.ChatCompletionRequest | openai.CompletionRequest) -> None:
    limit = ask.max_tokens if ask.max_completion_tokens is None else ask.max_completion_tokens
    if limit is not None:
        options["num_predict"] = limit
    if ask.seed is not None:
        options["seed"] = ask.seed


def _format(response_format: openai.ResponseFormat | None) -> RawJSON | None:
    if response_format is None:
        return None
    kind = response_format.type.lower().strip()
    if kind == "json_object":
        return RawJSON('"json"')
    if kind == "json_schema" and response_format.json_schema:
        schema = response_format.json_schema.schema
        # Ollama encodes the native request as JSON, which compacts the schema. Only errors about non-objects show it.
        return schema if schema is None or schema.startswith("{") else RawJSON(compact(schema))
    return None


def _think(ask: openai.ChatCompletionRequest) -> bool | str | None:
    effort = ask.reasoning.effort if ask.reasoning else ask.reasoning_effort
    if not effort:
        return None
    if effort not in EFFORTS:
        raise InvalidRequest(f'invalid reasoning value: \'{effort}\' (must be "high", "medium", "low", or "none")')
    return EFFORTS[effort]


def _conversation(asked: list[openai.Message]) -> list[native.Message] | None:
    """Native messages; a message with several parts becomes one message per part."""
    found = []
    names = {call.id: call.function.name for message in asked for call in message.tool_calls or ()}
    for message in asked:
        calls = _tool_calls(message)
        tool_name = _tool_name(message, names) if message.role.lower() == "tool" else ""
        if isinstance(message.content, list):
            parts = [_part(message.role, part) for part in message.content]
            if parts:
                parts[-1] = replace(
                    parts[-1],
                    tool_calls=calls,
                    tool_name=tool_name,
                    tool_call_id=message.tool_call_id,
                    thinking=message.reasoning if calls else "",
                )
            found += parts
            continue
        if not isinstance(message.content, str) and (message.content is not None or message.tool_calls is None):
            raise InvalidRequest(f"invalid message content type: {_go_type(message.content)}")
        found.append(
            native.Message(
                role=message.role,
                content=message.content or "",
                thinking=message.reasoning,
                tool_calls=calls,
                tool_name=tool_name,
                tool_call_id=message.tool_call_id,
            )
        )
    return found or None


def _go_type(value: Any) -> str:
    """Go's name for the type of a decoded JSON value."""
    if value is None:
        return "<nil>"
    names = {bool: "bool", str: "string", float: "float64", list: "[]interface {}", dict: "map[string]interface {}"}
    return names[type(value)]


def _tool_name(message: openai.Message, names: dict[str, str]) -> str:
    """Name of the tool whose result a message holds: as given, or that of its call. names: of all calls, by id."""
    return message.name or names.get(message.tool_call_id, "") if message.tool_call_id else message.name


def _tool_calls(message: openai.Message) -> list[conversation.ToolCall] | None:
    """Native tool calls: arguments parsed from their JSON text, calls renumbered."""
    found = []
    for index, call in enumerate(message.tool_calls or ()):
        function = conversation.ToolCallFunction(index, call.function.name, _arguments(call.function.arguments))
        found.append(conversation.ToolCall(call.id, function))
    return found or None


def _arguments(text: str) -> dict[str, Any] | None:
    try:
        with parsed(text.encode("utf-8", "surrogateescape")) as arguments:
            if arguments is None or isinstance(arguments, Object):
                return to_plain(arguments, State(garbage.made.get()))
    except JSONSyntaxError:
        pass
    raise InvalidRequest("invalid tool call arguments")


def _part(role: str, part: Any) -> native.Message:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return native.Message(role=role, content=part["text"])
    if kind != "image_url":
        raise InvalidRequest("invalid message format")
    link = part.get("image_url")
    url = link.get("url") if isinstance(link, dict) else link
    if not isinstance(url, str):
        raise InvalidRequest("invalid message format")
    return native.Message(role=role, images=[_image(url)])


def _image(url: str) -> bytes:
    """Image bytes of a data: URL."""
    start = next((start for kind in ("", *IMAGE_TYPES) if url.startswith(start := f"data:{kind};base64,")), None)
    if start is None:
        raise InvalidRequest("invalid image input")
    try:
        return decode_base64(url.removeprefix(start))
    except IllegalBase64:
        raise InvalidRequest("invalid message format") from None


# --- completions


def generate_requests(ask: openai.CompletionRequest) -> list[native.GenerateRequest]:
    """The native requests for one prompt, one per choice. Raises InvalidRequest."""
    request = generate_request(ask)
    more = extras(ask)
    if more.logprobs is not None:
        request = replace(request, logprobs=True, top_logprobs=more.logprobs)
    return [_of_choice(request, more, number) for number in range(more.num_choices)]


def generate_request(ask: openai.CompletionRequest) -> native.GenerateRequest:
    """The native request of a completion. Its prompt is empty if there is a list of them: see `prompts`."""
    options: dict[str, Any] = {
        "frequency_penalty": ask.frequency_penalty,
        "presence_penalty": ask.presence_penalty,
        "temperature": 1.0 if ask.temperature is None else ask.temperature,
        "top_p": ask.top_p or 1.0,
    }
    if isinstance(ask.stop, str):
        options["stop"] = [ask.stop]
    elif isinstance(ask.stop, list):
        other = next((item for item in ask.stop if not isinstance(item, str)), "")
        if other != "":
            raise InvalidRequest(f"invalid type for 'stop' field: {_go_type(other)}")
        options["stop"] = ask.stop or None
    _add_numbers(options, ask)
    shown = max(ask.logprobs or 0, 0)
    return native.GenerateRequest(
        model=ask.model,
        prompt=ask.prompt if isinstance(ask.prompt, str) else "",
        suffix=ask.suffix,
        stream=ask.stream,
        options=options,
        debug_render_only=ask.debug_render_only,
        logprobs=shown > 0,
        top_logprobs=shown,
    )


def prompts(asked: str | list[Any], num_choices: int = 1) -> list[str | list[int]]:
    """The prompts of a request, which holds a text, a list of texts, a list of token ids, or a list of such lists.

    num_choices: answers per prompt; the total is limited so that other clients get their turn. Raises InvalidRequest.
    """
    if isinstance(asked, str):
        return [asked]
    if asked and all(_is_id(item) for item in asked):
        return [asked]
    for item in asked:
        if not isinstance(item, str) and not (isinstance(item, list) and item and all(_is_id(part) for part in item)):
            raise InvalidRequest(
                "prompt must be a text, a list of texts, a list of token ids, or a list of lists of token ids"
            )
    if not 1 <= len(asked) <= MAX_CHOICES:
        raise InvalidRequest(f"prompt: {len(asked)} prompts; send between 1 and {MAX_CHOICES}")
    if len(asked) * num_choices > MAX_CHOICES:
        raise InvalidRequest(
            f"{len(asked)} prompts with n {num_choices} ask for {len(asked) * num_choices} answers; ask for "
            f"{MAX_CHOICES} at most"
        )
    return asked


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# --- embeddings


def embed_request(ask: openai.EmbedRequest) -> native.EmbedRequest:
    """The native request of embeddings."""
    if ask.encoding_format and ask.encoding_format.lower() not in ("float", "base64"):
        raise InvalidRequest(
            f"Invalid value for 'encoding_format' = {ask.encoding_format}. Supported values: ['float', 'base64']."
        )
    text = [""] if ask.input == "" else ask.input
    if text is None or text == []:
        raise InvalidRequest("invalid input")
    return native.EmbedRequest(model=ask.model, input=text, dimensions=ask.dimensions)
