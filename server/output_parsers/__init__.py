"""Parsers that split a model's raw output into content, thinking and tool calls. In: pieces of text. Out: `Parsed`.

A model's config may name a built-in parser (PARSER in a Modelfile). Otherwise the template tells how thinking and tool
calls are marked.
"""

from collections.abc import Callable
from functools import partial

from ..prompts import ModelTexts
from ..prompts.call_format import CallFormat, CallShape
from ..prompts.marks import CODER_TAG
from ..wire.conversation import Message, Tool
from .answer_marks import without_marks
from .harmony import HarmonyParser
from .marked import MarkedCallsParser
from .parsed import BuiltinParser, OutputParser, Parsed, ParseError
from .passthrough import PassthroughParser
from .tagged import Qwen3CoderParser, Qwen3VLParser
from .thinking import ThinkingParser
from .tools import ToolsParser

BUILTIN: dict[str, Callable[[list[Tool], Message | None], BuiltinParser]] = {
    "passthrough": PassthroughParser,
    "qwen3-coder": Qwen3CoderParser,
    "qwen3-vl-instruct": partial(Qwen3VLParser, thinks=False),
    "qwen3-vl-thinking": partial(Qwen3VLParser, thinks=True),
    "harmony": HarmonyParser,
}
_HARMONY_FAMILIES = ("gptoss", "gpt-oss")


def name_of(stored: ModelTexts) -> str:
    """Name of the stored model's built-in parser, or "". A gpt-oss model whose template writes harmony tags need not
    name its parser.
    """
    name = stored.config.get("parser") or ""
    if (
        not name
        and stored.config.get("model_family") in _HARMONY_FAMILIES
        and all(tag in stored.template for tag in ("<|start|>", "<|end|>"))
    ):
        return "harmony"
    return name if name in BUILTIN else ""


def builtin(name: str, tools: list[Tool] | None = None, last_message: Message | None = None) -> BuiltinParser:
    """Create the parser with this name. `parser.tools` are the tools to show in the prompt.

    last_message: the last message of the prompt, which the answer continues if it is an assistant message.
    Raises ParseError for an unknown name.
    """
    if name not in BUILTIN:
        raise ParseError("unknown parser")
    return BUILTIN[name](list(tools or []), last_message)


def knowledge(name: str) -> tuple[bool, bool]:
    """Return (finds tool calls, finds thinking) for the parser with this name."""
    parser = builtin(name)
    return parser.knows_tools, parser.knows_thinking


def by_format(calls: CallFormat, tools: list[Tool], prompt: str = "") -> OutputParser:
    """Create a parser for tool calls in this format. prompt: the text before the answer."""
    if calls.shape is not CallShape.JSON:
        return MarkedCallsParser(calls, tools, prompt)
    if calls.tag == CODER_TAG:
        return Qwen3CoderParser(tools, None)
    return ToolsParser(calls.tag, tools, calls.name_key, calls.arguments_key)


def by_template(
    prompt: str, thinking_tags: tuple[str, str] | None, calls: CallFormat, tools: list[Tool] | None
) -> OutputParser | None:
    """Create a parser for the tags and calls of a template, or return None if there are none to look for.

    thinking_tags None: thinking stays in the content.
    """
    thoughts = None
    if thinking_tags and all(thinking_tags):
        thoughts = ThinkingParser(*thinking_tags, opened=prompt.strip().endswith(thinking_tags[0]))
    tool_calls = by_format(calls, tools, prompt) if tools else None
    if thoughts and tool_calls:
        return ThoughtsThenCalls(thoughts, tool_calls)
    return thoughts or tool_calls


class ThoughtsThenCalls:
    """Removes the thinking first and looks for tool calls in the rest."""

    def __init__(self, thoughts: OutputParser, calls: OutputParser):
        self.thoughts = thoughts
        self.calls = calls

    def add(self, text: str, done: bool = False) -> Parsed:
        outer = self.thoughts.add(text, done)
        inner = self.calls.add(outer.content, done)
        return Parsed(inner.content, outer.thinking, inner.calls)


__all__ = [
    "BUILTIN",
    "BuiltinParser",
    "OutputParser",
    "ParseError",
    "Parsed",
    "ThinkingParser",
    "ThoughtsThenCalls",
    "builtin",
    "by_format",
    "by_template",
    "knowledge",
    "name_of",
    "without_marks",
]
