"""Values of a prompt -> what Hugging Face's chat templates expect -> the prompt.

In: the template's text and the tokens that it may name. Out: `JinjaTemplate`, used as a Go template is.
"""

import json
import secrets
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..gotemplate import TemplateError, Values
from .forms import ToolsPlace, as_parts, call_tag, placed, tools_place, typed_roles
from .process import WorkerDoesNotStart, WorkerEnded, worker
from .tags import knows_tools, thinking_tags

MAX_CHARS = 100_000  # a template longer than this is not worth running
_TOKENS = {
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}  # a template's name -> GGUF's


@dataclass(frozen=True)
class Source:
    """A template as it stands in a file.

    token_ids: ids of the tokens that it may name (`eos_token`), but for bos.
    tool_text: the template for conversations with tools, where the file has two.
    """

    text: str
    token_ids: dict[str, int] = field(default_factory=dict)
    tool_text: str = ""

    @classmethod
    def of(cls, metadata) -> "Source | None":
        """The template of a GGUF file's metadata, where it has one worth running."""
        text, tool_text = (
            _text(metadata, key) for key in ("tokenizer.chat_template", "tokenizer.chat_template.tool_use")
        )
        if not text:
            return None
        ids = {name: metadata.get(f"tokenizer.ggml.{key}", None, None) for name, key in _TOKENS.items()}
        return cls(text, {name: token_id for name, token_id in ids.items() if isinstance(token_id, int)}, tool_text)

    @property
    def with_tools(self) -> str:
        """The text that conversations with tools are written with."""
        return self.tool_text or self.text


def _text(metadata, key) -> str:
    text = metadata.get(key, None, "")
    return text if isinstance(text, str) and len(text) <= MAX_CHARS else ""


def found_in(stored, metadata) -> Source | None:
    """What a stored model's prompts are written with where it has neither a Go template nor a renderer, and its file
    has a Jinja template.

    metadata: that of its GGUF file, or None.
    """
    if metadata is None or stored.config.get("renderer") or stored.has_template:
        return None
    return Source.of(metadata)


class TooCostly(TemplateError):
    """Another form of the same conversation would cost as much."""


@contextmanager
def _worker_errors():
    """Errors of the worker as TemplateErrors."""
    try:
        yield
    except WorkerEnded:
        raise TooCostly(
            "the chat template in the model's file took too much time or memory; "
            "create the model with a TEMPLATE of its own",
            "execute",
        ) from None
    except WorkerDoesNotStart:
        raise TemplateError(
            f"the process that runs chat templates does not start: can {sys.executable} -I import jinja2?",
            "execute",
        ) from None


class JinjaTemplate:
    """bos, eos: the texts of these tokens; tokens: those of others, by the names that templates know them by.
    adds_bos: the tokenizer puts bos before a prompt by itself, so the prompt is not to begin with it.
    with_tools: the template that takes this one's place where there are tools."""

    def __init__(
        self, text: str, bos: str = "", eos: str = "", adds_bos: bool = False, tokens: dict[str, str] | None = None
    ):
        self.text, self.bos, self.adds_bos = text, bos, adds_bos
        self.tokens = {**(tokens or {}), "bos_token": bos, "eos_token": eos}
        self.with_tools = self

    @classmethod
    def for_tokenizer(cls, source: Source, tokenizer) -> "JinjaTemplate":
        def written(token_id):
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

    def call_tag(self) -> str:
        """What begins a tool call in an answer. Raises TemplateError."""
        text = self.with_tools.text
        with _worker_errors():
            return call_tag(text) if knows_tools(text) else "{"

    def execute(self, values: Values, as_it_is: bool = False) -> str:
        """The prompt. Raises TemplateError.

        A conversation that the template refuses is tried in other forms that say the same, as templates differ in what
        they take; the error is that of the first. as_it_is: no other form.
        """
        if values.tools and self.with_tools is not self:
            return self.with_tools.execute(values, as_it_is)
        refused = None
        messages = _with_ids([_message(message) for message in values.messages])
        for messages in [messages] if as_it_is else _forms(messages):
            try:
                text = self._conversation(values, messages)
            except TooCostly:
                raise
            except TemplateError as error:
                refused = refused or error
            else:
                return text.removeprefix(self.bos) if self.adds_bos and self.bos else text
        raise refused

    def _conversation(self, values, messages) -> str:
        """An answer that comes last is continued; thoughts alone follow the place where an answer would begin."""
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

    def _continued(self, values, messages) -> str:
        """What the template writes up to the last message's content, and the content as it is.

        A mark in place of the content shows where it belongs, whatever the template would do to it. Where the template
        shows no mark, the content follows the place where an answer would begin.
        """
        *before, last = messages
        content, mark = last["content"], "answer" + secrets.token_hex(16)
        try:
            text = self._render(values, [*before, last | {"content": mark}], asks=False)
        except TooCostly:
            raise
        except TemplateError:
            text = ""
        text, found, _ = text.rpartition(mark)
        if not found:
            return self._render(values, before, asks=True) + content
        opening, closing = thinking_tags(self.text)
        if opening and (opening in content or closing in content):
            begun = "" if opening in content else self._render(values, before, asks=True)
            # Thoughts that an open tag of the prompt began: the content is what the model wrote behind it.
            text = begun if begun.rstrip().endswith(opening) else _without_empty_thoughts(text, opening, closing)
        return text.replace(mark, content) + content

    def _render(self, values, messages, *, asks) -> str:
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
            if "error" in answer and not values.tools:  # some templates are written for conversations with tools only
                second = worker.ask(self.text, variables | {"tools": []})
                answer = answer if "error" in second else second
        if "error" in answer:
            raise TemplateError(f"the chat template in the model's file: {answer['error']}", "execute")
        return answer["text"]


def _without_empty_thoughts(text: str, opening: str, closing: str) -> str:
    """Without the tags that some templates put before an answer that has no thoughts: the answer brings its own."""
    bare = text.rstrip()
    if bare.endswith(closing):
        bare = bare.removesuffix(closing)
        return bare.rstrip().removesuffix(opening) if bare.rstrip().endswith(opening) else bare
    return bare.removesuffix(opening) if bare.endswith(opening) else text


def _message(message: dict) -> dict:
    """In the words of Hugging Face; what is empty is left out, for templates ask whether it is there."""
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
    """Calls without an id get one of nine characters, which some templates insist on; results without one answer the
    first call left open.
    """
    open_ids, number = [], 0
    for message in messages:
        for call in message.get("tool_calls") or ():
            call["id"], number = call["id"] or f"call{number:05d}", number + 1
            open_ids.append(call["id"])
        if message["role"] == "tool":
            answered = message.get("tool_call_id") or (open_ids[0] if open_ids else f"call{number:05d}")
            message["tool_call_id"] = answered
            open_ids = [open_id for open_id in open_ids if open_id != answered]
    return messages


def _forms(messages: list[dict]):
    """The conversation as it is; with arguments of calls as text; without a system message and neighbours of one
    role.
    """
    yield messages
    if any("tool_calls" in message for message in messages):
        messages = [_with_text_arguments(message) for message in messages]
        yield messages
    simpler = _simplified(messages)
    if simpler != messages:
        yield simpler


def _with_text_arguments(message: dict) -> dict:
    if "tool_calls" not in message:
        return message

    def with_text(function):
        return function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}

    return message | {
        "tool_calls": [call | {"function": with_text(call["function"])} for call in message["tool_calls"]]
    }


def _simplified(messages: list[dict]) -> list[dict]:
    """The system text comes before the first question, for some models know no other place; neighbours of one role
    are merged, but for tool calls and their results.
    """
    system = "\n\n".join(
        message["content"] for message in messages if message["role"] == "system" and message["content"]
    )
    simpler: list[dict] = []
    for message in messages:
        if message["role"] == "system":
            continue
        if system and message["role"] == "user":
            message, system = message | {"content": f"{system}\n\n{message['content']}"}, ""
        mergeable = message["role"] != "tool" and not (
            "tool_calls" in message or simpler and "tool_calls" in simpler[-1]
        )
        if simpler and mergeable and simpler[-1]["role"] == message["role"]:
            simpler[-1] = simpler[-1] | {
                "content": "\n\n".join(filter(None, (simpler[-1]["content"], message["content"])))
            }
        else:
            simpler.append(message)
    return simpler
