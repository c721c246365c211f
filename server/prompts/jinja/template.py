"""Runs Hugging Face chat templates: converts `Values` to the variables such a template expects.

In: the template's text and the tokens it may name. Out: `JinjaTemplate`, which has the interface of a Go template.
"""

import json
import secrets
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vkbackend.gguf.reader import Metadata
from vkbackend.tokenizer import Tokenizer

from .. import ModelTexts
from ..call_format import CallFormat
from ..gotemplate import TemplateError, Values
from .calls import call_format
from .forms import ToolsPlace, as_parts, placed, tools_place, typed_roles
from .tags import knows_tools, thinking_tags
from .worker_process import WorkerDoesNotStart, WorkerEnded, worker

MAX_CHARS = 100_000  # a longer template is ignored
_TOKENS = {
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}  # name in templates -> name in GGUF


@dataclass(frozen=True)
class JinjaSource:
    """The template in a GGUF file.

    token_ids: ids of the tokens it may name (such as `eos_token`), without bos.
    tool_text: the template for conversations with tools, if the file has a separate one.
    """

    text: str
    token_ids: dict[str, int] = field(default_factory=dict)
    tool_text: str = ""

    @classmethod
    def of(cls, metadata: Metadata) -> "JinjaSource | None":
        """Read the template from a GGUF file's metadata. Returns None if there is none or it is too long."""
        text, tool_text = (
            _text(metadata, key) for key in ("tokenizer.chat_template", "tokenizer.chat_template.tool_use")
        )
        if not text:
            return None
        ids = {name: metadata.get(f"tokenizer.ggml.{key}", None, None) for name, key in _TOKENS.items()}
        return cls(text, {name: token_id for name, token_id in ids.items() if isinstance(token_id, int)}, tool_text)

    @property
    def with_tools(self) -> str:
        """The template for conversations with tools."""
        return self.tool_text or self.text


def _text(metadata: Metadata, key: str) -> str:
    text = metadata.get(key, None, "")
    return text if isinstance(text, str) and len(text) <= MAX_CHARS else ""


def found_in(stored: ModelTexts, metadata: Metadata | None) -> JinjaSource | None:
    """Return the Jinja template that a stored model uses. None: it has a Go template, a renderer or no template.

    metadata: the metadata of its GGUF file, if it has one.
    """
    if metadata is None or stored.config.get("renderer") or stored.has_template:
        return None
    return JinjaSource.of(metadata)


class TooCostly(TemplateError):
    """The template exceeded its limits; another form of the same conversation would, too."""


@contextmanager
def _worker_errors() -> Iterator[None]:
    """Convert errors of the worker to TemplateErrors."""
    try:
        yield
    except WorkerEnded:
        raise TooCostly(
            "the chat template in the model file took too much time or memory; create the model with a TEMPLATE",
            "execute",
        ) from None
    except WorkerDoesNotStart:
        raise TemplateError(
            f"cannot start the process that runs chat templates; check that `{sys.executable} -I` can import jinja2",
            "execute",
        ) from None


class JinjaTemplate:
    """A chat template in Jinja.

    bos, eos: texts of these tokens. tokens: texts of other tokens, by the names that templates use.
    adds_bos: the tokenizer adds bos to a prompt, so the prompt must not begin with it.
    with_tools: the template to use if the request has tools.
    """

    def __init__(
        self, text: str, bos: str = "", eos: str = "", adds_bos: bool = False, tokens: dict[str, str] | None = None
    ):
        self.text = text
        self.bos = bos
        self.adds_bos = adds_bos
        self.tokens = {**(tokens or {}), "bos_token": bos, "eos_token": eos}
        self.with_tools = self

    @classmethod
    def for_tokenizer(cls, source: JinjaSource, tokenizer: Tokenizer) -> "JinjaTemplate":
        """Create the template with the texts of the tokenizer's special tokens."""

        def written(token_id: int | None) -> str:
            return "" if token_id is None else tokenizer.token_bytes(token_id).decode("utf-8", "replace")

        known = {
            name: written(token_id)
            for name, token_id in source.token_ids.items()
            if 0 <= token_id < tokenizer.vocab_size
        }
        rest = written(tokenizer.bos_id), known.pop("eos_token", ""), tokenizer.adds_bos, known
        template = cls(source.text, *rest)
        if source.tool_text:
            template.with_tools = cls(source.tool_text, *rest)
        return template

    def call_format(self) -> CallFormat:
        """Return how calls are written in an answer. Raises TemplateError."""
        text = self.with_tools.text
        with _worker_errors():
            return call_format(text) if knows_tools(text) else CallFormat()

    def execute(self, values: Values, as_it_is: bool = False) -> str:
        """Write the prompt. Raises TemplateError.

        Templates differ in what they accept. If the template rejects a conversation, equivalent forms are tried; the
        error is that of the first form. as_it_is: try no other form.
        """
        if values.tools and self.with_tools is not self:
            return self.with_tools.execute(values, as_it_is)
        messages = _with_ids([_message(message) for message in values.messages])
        if any("tool_calls" in message for message in messages) and self.call_format().names_in_ids:
            messages = _with_names_in_ids(messages)
        try:
            text = self._conversation(values, messages)
        except TooCostly:
            raise
        except TemplateError:
            text = None if as_it_is else self._in_another_form(values, messages)
            if text is None:
                raise
        return text.removeprefix(self.bos) if self.adds_bos and self.bos else text

    def _in_another_form(self, values: Values, messages: list[dict]) -> str | None:
        """Return the prompt of the first form that the template accepts, or None."""
        for form in _other_forms(messages):
            try:
                return self._conversation(values, form)
            except TooCostly:
                raise
            except TemplateError:
                continue
        return None

    def _conversation(self, values: Values, messages: list[dict]) -> str:
        """Write the prompt. A final assistant message is continued; thinking alone is appended to the prompt."""
        last = messages[-1] if messages else {}
        if last.get("role") != "assistant" or last.get("tool_calls"):
            return self._render(values, messages, asks=True)
        if last["content"]:
            return self._continued(values, messages)
        text = self._render(values, messages[:-1], asks=True)
        if not last.get("thinking"):
            return text
        opening, closing = thinking_tags(self.text)
        if opening and text.rstrip().endswith(opening):
            text = text.rstrip()[: -len(opening)]
        return f"{text}{opening}\n{last['thinking'].strip()}\n{closing}\n\n"

    def _continued(self, values: Values, messages: list[dict]) -> str:
        """Write the prompt up to the content of the last message, followed by that content unchanged.

        A mark replaces the content to find its place, because templates may rewrite the content. If the mark does not
        appear, the content follows the prompt for a new answer.
        """
        *before, last = messages
        content, mark = last["content"], "answer" + secrets.token_hex(16)
        try:
            text = self._render(values, [*before, last | {"content": mark}], asks=False)
        except TooCostly:
            raise
        except TemplateError:
            try:
                return self._render(values, before, asks=True) + content
            except TooCostly:
                raise
            except TemplateError:
                pass  # its error would speak of a conversation that the client did not send
            raise
        text, found, _ = text.rpartition(mark)
        if not found:
            return self._render(values, before, asks=True) + content
        opening, closing = thinking_tags(self.text)
        if opening and (opening in content or closing in content):
            begun = "" if opening in content else self._render(values, before, asks=True)
            # The prompt opened the thinking, so the content is what the model wrote after the opening tag.
            text = begun if begun.rstrip().endswith(opening) else _without_empty_thoughts(text, opening, closing)
        return text.replace(mark, content) + content

    def _render(self, values: Values, messages: list[dict], *, asks: bool) -> str:
        variables = {"documents": None, "add_generation_prompt": asks, **self.tokens}
        if values.is_think_set:
            variables |= {"enable_thinking": values.think, "thinking": values.think}
        if values.think_level:
            variables["reasoning_effort"] = values.think_level
        with _worker_errors():
            place = tools_place(self.text) if values.tools else ToolsPlace.VARIABLE
            messages, variables["tools"] = placed(messages, values.tools, place)
            variables["messages"] = as_parts(messages, typed_roles(self.text))
            answer = worker.ask(self.text, variables)
            if "error" in answer and not values.tools:  # some templates require a list of tools
                second = worker.ask(self.text, variables | {"tools": []})
                answer = answer if "error" in second else second
        if "error" in answer:
            raise TemplateError(f"the chat template in the model file: {answer['error']}", "execute")
        return answer["text"]


def _without_empty_thoughts(text: str, opening: str, closing: str) -> str:
    """Remove the tags that some templates write before an answer without thinking: the answer contains its own."""
    bare = text.rstrip()
    if bare.endswith(closing):
        bare = bare.removesuffix(closing)
        return bare.rstrip().removesuffix(opening) if bare.rstrip().endswith(opening) else bare
    return bare.removesuffix(opening) if bare.endswith(opening) else text


def _message(message: dict) -> dict:
    """Convert a message to Hugging Face's keys. Empty values are omitted, because templates test for keys."""
    plain = {"role": message["role"], "content": message.get("content") or ""}
    if message.get("thinking"):
        plain |= {"reasoning_content": message["thinking"], "thinking": message["thinking"]}
    if message.get("tool_calls"):
        plain["tool_calls"] = [
            {
                "type": "function",
                "id": call.get("id") or "",
                "function": {"name": call["function"]["name"], "arguments": call["function"].get("arguments") or {}},
            }
            for call in message["tool_calls"]
        ]
    if message.get("tool_name"):
        plain["name"] = message["tool_name"]
    if message.get("tool_call_id"):
        plain["tool_call_id"] = message["tool_call_id"]
    return plain


def _with_ids(messages: list[dict]) -> list[dict]:
    """Add missing ids: nine characters for a call, as some templates require; the first open call's id for a result."""
    open_ids: OrderedDict[str, None] = OrderedDict()  # a plain dict is slow at removing its first keys one by one
    number = 0
    for message in messages:
        for call in message.get("tool_calls") or ():
            call["id"], number = call["id"] or f"call{number:05d}", number + 1
            open_ids[call["id"]] = None
        if message["role"] == "tool":
            answered = message.get("tool_call_id") or next(iter(open_ids), f"call{number:05d}")
            message["tool_call_id"] = answered
            open_ids.pop(answered, None)
    return messages


def _with_names_in_ids(messages: list[dict]) -> list[dict]:
    """Rename the ids of calls, and of their results, to `functions.NAME:NUMBER`."""
    renamed: dict[str, str] = {}
    number = 0
    for message in messages:
        for call in message.get("tool_calls") or ():
            renamed[call["id"]] = f"functions.{call['function']['name']}:{number}"
            call["id"] = renamed[call["id"]]
            number += 1
        if "tool_call_id" in message:
            message["tool_call_id"] = renamed.get(message["tool_call_id"], message["tool_call_id"])
    return messages


def _other_forms(messages: list[dict]) -> Iterator[list[dict]]:
    """Yield equivalent forms: with call arguments as JSON text, then without system messages and repeated roles."""
    if any("tool_calls" in message for message in messages):
        messages = [_with_text_arguments(message) for message in messages]
        yield messages
    simpler = _simplified(messages)
    if simpler != messages:
        yield simpler


def _with_text_arguments(message: dict) -> dict:
    if "tool_calls" not in message:
        return message

    def with_text(function: dict) -> dict:
        return function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}

    return message | {
        "tool_calls": [call | {"function": with_text(call["function"])} for call in message["tool_calls"]]
    }


def _simplified(messages: list[dict]) -> list[dict]:
    """Move system texts into the first user message; merge neighbours of a role except calls and results."""
    system = "\n\n".join(
        message["content"] for message in messages if message["role"] == "system" and message["content"]
    )
    simpler: list[dict] = []
    contents: list[list[str]] = []  # of each message of `simpler`, joined at the end: a conversation may be long
    for message in messages:
        if message["role"] == "system":
            continue
        texts = [message["content"]] if message["content"] else []
        if system and message["role"] == "user":
            texts, system = [f"{system}\n\n{message['content']}"], ""
        if simpler and _can_merge(simpler[-1], message):
            contents[-1] += texts
        else:
            simpler.append(message)
            contents.append(texts)
    return [message | {"content": "\n\n".join(texts)} for message, texts in zip(simpler, contents)]


def _can_merge(message: dict, following: dict) -> bool:
    is_plain = "tool_calls" not in message and "tool_calls" not in following
    return is_plain and message["role"] == following["role"] != "tool"
