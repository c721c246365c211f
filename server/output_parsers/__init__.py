"""A model's raw output -> content, thoughts and tool calls. In: pieces of text. Out: `Parsed`.

A model names a built-in parser in its config (PARSER of a Modelfile), or its template tells how thoughts and calls
are marked.
"""

from functools import partial

from ..prompts.marks import CODER_TAG
from ..wire.conversation import Message, Tool
from .harmony import HarmonyParser
from .parsed import OutputParser, Parsed, ParseError
from .passthrough import PassthroughParser
from .tagged import Qwen3CoderParser, Qwen3VLParser
from .thinking import ThinkingParser
from .tools import ToolsParser

BUILTIN = {
    "passthrough": PassthroughParser,
    "qwen3-coder": Qwen3CoderParser,
    "qwen3-vl-instruct": partial(Qwen3VLParser, thinks=False),
    "qwen3-vl-thinking": partial(Qwen3VLParser, thinks=True),
    "harmony": HarmonyParser,
}
_HARMONY_FAMILIES = ("gptoss", "gpt-oss")


def name_of(stored) -> str:
    """The built-in parser of a stored model, or nothing. Models of gpt-oss need not name theirs where their template
    writes its tags.
    """
    name = stored.config.get("parser") or ""
    if (
        not name
        and stored.config.get("model_family") in _HARMONY_FAMILIES
        and all(tag in stored.template for tag in ("<|start|>", "<|end|>"))
    ):
        return "harmony"
    return name if name in BUILTIN else ""


def builtin(name: str, tools: list[Tool] | None = None, last_message: Message | None = None):
    """A parser by its name, for an answer that goes on from last_message; its `tools` are those that the prompt has
    to show.

    Raises ParseError for a name that is none.
    """
    if name not in BUILTIN:
        raise ParseError("unknown parser")
    return BUILTIN[name](list(tools or []), last_message)


def knowledge(name: str) -> tuple[bool, bool]:
    """Whether the parser of this name finds tool calls, and thoughts."""
    parser = builtin(name)
    return parser.knows_tools, parser.knows_thinking


def by_tag(tool_tag: str, tools: list[Tool]) -> OutputParser:
    """A parser of the tool calls that begin with a tag."""
    return Qwen3CoderParser(tools, None) if tool_tag == CODER_TAG else ToolsParser(tool_tag, tools)


def by_template(
    prompt: str, thinking_tags: tuple[str, str] | None, tool_tag: str, tools: list[Tool] | None
) -> OutputParser | None:
    """A parser of what a template tells, or None where there is nothing to look for. thinking_tags None: thoughts
    stay in the answer.
    """
    thoughts = None
    if thinking_tags and all(thinking_tags):
        thoughts = ThinkingParser(*thinking_tags, opened=prompt.strip().endswith(thinking_tags[0]))
    calls = by_tag(tool_tag, tools) if tools else None
    if thoughts and calls:
        return ThoughtsThenCalls(thoughts, calls)
    return thoughts or calls


class ThoughtsThenCalls:
    """Calls are looked for in what is no thought."""

    def __init__(self, thoughts: OutputParser, calls: OutputParser):
        self.thoughts, self.calls = thoughts, calls

    def add(self, text: str, done: bool = False) -> Parsed:
        outer = self.thoughts.add(text, done)
        inner = self.calls.add(outer.content, done)
        return Parsed(inner.content, outer.thinking, inner.calls)


__all__ = [
    "BUILTIN",
    "OutputParser",
    "ParseError",
    "Parsed",
    "ThinkingParser",
    "ThoughtsThenCalls",
    "builtin",
    "by_tag",
    "by_template",
    "knowledge",
    "name_of",
]
