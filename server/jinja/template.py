"""Values of a prompt -> what Hugging Face's chat templates expect -> the prompt.

In: the template's text and the tokens that it may name. Out: `JinjaTemplate`, used as a Go template is.
"""

import json
import sys
from dataclasses import dataclass

from ..gotemplate import TemplateError, Values
from ..stored_model import PROMPT, TEMPLATE
from .process import WorkerDoesNotStart, WorkerEnded, worker

MAX_CHARS = 100_000  # a template longer than this is not worth running
_CALL_TAGS = ("<tool_call>", "[TOOL_CALLS]", "<|tool▁calls▁begin|>", "<｜tool▁calls▁begin｜>", "<|tool_calls_section_begin|>",
              "<|tool_call|>", "<|tool_call_start|>", "<tool_calls>")


@dataclass(frozen=True)
class Source:
    """A template as it stands in a file; eos_id as the file has it."""

    text: str
    eos_id: int | None


def found_in(stored, metadata) -> Source | None:
    """What a stored model's prompts are written with where it has neither a Go template nor a renderer, and its file has a Jinja template.

    metadata: that of its GGUF file, or None.
    """
    if metadata is None or stored.config.get("renderer") or any(layer.media_type in (TEMPLATE, PROMPT) for layer in stored.manifest.layers):
        return None
    text = metadata.get("tokenizer.chat_template", None, "")
    if not isinstance(text, str) or not 0 < len(text) <= MAX_CHARS:
        return None
    return Source(text, metadata.get("tokenizer.ggml.eos_token_id", None, None))


def knows_tools(text: str) -> bool:
    return "tools" in text


def thinking_tags(text: str) -> tuple[str, str]:
    """What stands around thoughts, or empty texts."""
    return ("<think>", "</think>") if "</think>" in text else ("", "")


def tool_tag(text: str) -> str:
    """What begins a tool call: a word that the template names, else a brace."""
    return next((tag for tag in _CALL_TAGS if tag in text), "{")


class JinjaTemplate:
    """bos, eos: the texts of these tokens. adds_bos: the tokenizer puts bos before a prompt by itself, so the prompt is not to begin with it."""

    def __init__(self, text: str, bos: str, eos: str, adds_bos: bool):
        self.text, self.bos, self.eos, self.adds_bos = text, bos, eos, adds_bos

    @classmethod
    def for_tokenizer(cls, source: Source, tokenizer) -> "JinjaTemplate":
        def written(token_id):
            return "" if token_id is None else tokenizer.token_bytes(token_id).decode("utf-8", "replace")

        return cls(source.text, written(tokenizer.bos_id), written(source.eos_id), tokenizer.adds_bos)

    def execute(self, values: Values) -> str:
        """The prompt. Raises TemplateError.

        A conversation that the template refuses is tried in other forms that say the same, as templates differ in what they take; the error is
        that of the first.
        """
        refused = None
        for messages in _forms(_with_ids([_message(message) for message in values.messages])):
            try:
                text = self._conversation(values, messages)
            except TemplateError as error:
                refused = refused or error
            else:
                return text.removeprefix(self.bos) if self.adds_bos and self.bos else text
        raise refused

    def _conversation(self, values, messages) -> str:
        """An answer that comes last is gone on with: what the template writes behind it is cut off; thoughts without an answer are put behind."""
        last = messages[-1] if messages else {}
        if last.get("role") != "assistant" or last.get("tool_calls"):
            return self._render(values, messages, asks=True)
        content = last["content"]
        if content.strip():
            text = self._render(values, messages, asks=False)
            end = text.rfind(content.strip())
            if end < 0:
                raise TemplateError("the model's chat template does not show the answer that is to be gone on with", "execute")
            return text[:end] + content.strip()
        text = self._render(values, messages[:-1], asks=True)
        if not last.get("thinking"):
            return text
        opening, closing = thinking_tags(self.text)
        if opening and text.rstrip().endswith(opening):
            text = text.rstrip()[:-len(opening)]
        return f"{text}{opening}\n{last['thinking'].strip()}\n{closing}\n\n"

    def _render(self, values, messages, *, asks) -> str:
        variables = {"messages": messages, "add_generation_prompt": asks, "bos_token": self.bos, "eos_token": self.eos}
        if values.tools:
            variables["tools"] = values.tools
        if values.is_think_set:
            variables |= {"enable_thinking": values.think, "thinking": values.think}
        if values.think_level:
            variables["reasoning_effort"] = values.think_level
        try:
            answer = worker.ask(self.text, variables)
        except WorkerEnded:
            raise TemplateError("the chat template in the model's file took too much time or memory; create the model with a TEMPLATE of its own",
                                "execute") from None
        except WorkerDoesNotStart:
            raise TemplateError(f"the process that runs chat templates does not start: can {sys.executable} -I import jinja2?", "execute") from None
        if "error" in answer:
            raise TemplateError(f"the chat template in the model's file: {answer['error']}", "execute")
        return answer["text"]


def _message(message: dict) -> dict:
    """In the words of Hugging Face; what is empty is left out, for templates ask whether it is there."""
    plain = {"role": message["role"], "content": message.get("content") or ""}
    if message.get("thinking"):
        plain |= {"reasoning_content": message["thinking"], "thinking": message["thinking"]}
    if message.get("tool_calls"):
        plain["tool_calls"] = [{"type": "function", "id": call.get("id") or "", "function": {
            "name": call["function"]["name"], "arguments": call["function"].get("arguments") or {}}} for call in message["tool_calls"]]
    if message.get("tool_name"):
        plain["name"] = message["tool_name"]
    if message.get("tool_call_id"):
        plain["tool_call_id"] = message["tool_call_id"]
    return plain


def _with_ids(messages: list[dict]) -> list[dict]:
    """Calls without an id get one of nine characters, which some templates insist on; results without one answer the first call left open."""
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
    """The conversation as it is; with arguments of calls as text; without a system message and neighbours of one role."""
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

    return message | {"tool_calls": [call | {"function": with_text(call["function"])} for call in message["tool_calls"]]}


def _simplified(messages: list[dict]) -> list[dict]:
    """The system text comes before the first question, for some models know no other place; neighbours of one role are merged, but for
    tool calls and their results."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system" and message["content"])
    simpler: list[dict] = []
    for message in messages:
        if message["role"] == "system":
            continue
        if system and message["role"] == "user":
            message, system = message | {"content": f"{system}\n\n{message['content']}"}, ""
        mergeable = message["role"] != "tool" and not ("tool_calls" in message or simpler and "tool_calls" in simpler[-1])
        if simpler and mergeable and simpler[-1]["role"] == message["role"]:
            simpler[-1] = simpler[-1] | {"content": "\n\n".join(filter(None, (simpler[-1]["content"], message["content"])))}
        else:
            simpler.append(message)
    return simpler
