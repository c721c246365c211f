"""Reads the use of tools, thinking and tool calls from the text of a Jinja template, without running it."""

import functools

from ..marks import CODER_TAG

THINKING_TAGS = (
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
)
ANSWER_MARKS = (("<|START_RESPONSE|>", "<|END_RESPONSE|>"), ("<|START_TEXT|>", "<|END_TEXT|>"))
CALL_TAGS = (
    "<tool_call>",
    "[TOOL_CALLS]",
    "<|tool▁calls▁begin|>",
    "<｜tool▁calls▁begin｜>",
    "<|tool_calls_section_begin|>",
    "<|tool_call|>",
    "<|tool_call_start|>",
    "<tool_calls>",
)


@functools.lru_cache(maxsize=64)
def _uses_of_tools(text: str) -> frozenset[str]:
    """How code uses `tools`: as "variable" or as "key" (`message.tools`, `message["tools"]`). Ignores comments."""
    from jinja2 import Environment, TemplateSyntaxError  # imported on first use: most models have a Go template

    uses, before = set(), ""
    try:
        for _, kind, value in Environment().lex(text):
            if kind == "name" and value == "tools":
                uses.add("key" if before == "." else "variable")
            elif kind == "string" and value[1:-1] == "tools":
                uses.add("key")
            if kind != "whitespace":
                before = value
    except TemplateSyntaxError:
        return frozenset()
    return frozenset(uses)


def knows_tools(text: str) -> bool:
    """Whether the template uses `tools`."""
    return bool(_uses_of_tools(text))


def reads_tools_from_messages(text: str) -> bool:
    """Whether the template may read tools from the key `tools` of a message, as Phi-4-mini's does."""
    return "key" in _uses_of_tools(text)


def thinking_tags(text: str) -> tuple[str, str]:
    """Return the tags around thinking, or empty texts."""
    return next((tags for tags in THINKING_TAGS if tags[1] in text), ("", ""))


def answer_marks(text: str) -> tuple[str, ...]:
    """Return the special tokens that the model writes around an answer, or ()."""
    return next((marks for marks in ANSWER_MARKS if all(mark in text for mark in marks)), ())


def tool_tag(text: str) -> str:
    """Return the known tag of a tool call that the text contains, or ""."""
    if all(tag in text for tag in ("<tool_call>", "<function=", "<parameter=")):
        return CODER_TAG
    return next((tag for tag in CALL_TAGS if tag in text), "")
