"""Finds how a Jinja template makes a model write tool calls: it renders calls in a history and reads off the marks.

In: the template's text. Out: `CallFormat`. Raises WorkerEnded and WorkerDoesNotStart.
"""

import functools
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from os.path import commonprefix

from ..call_format import CallFormat, CallShape
from .forms import as_parts, typed_roles, written
from .tags import thinking_tags, tool_tag

_NAMES = ("probeonefunction", "probetwofunction")
_KEYS = ("probeonekey", "probetwokey")
_VALUES = ("probeonevalue", "probetwovalue")
_ARGUMENTS = dict(zip(_KEYS, _VALUES))
_PROBE_SECONDS = 3  # in which a template must show a call in one of its forms; milliseconds are usual
_ANSWER = "wordsofananswer"
_OTHER_TOOL = {
    "type": "function",
    "function": {"name": "probeothertool", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
_SPECIAL = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")  # how templates write special tokens
_BEGUN = re.compile(r"<[^<>]*|\[/?[A-Z_]*")  # a special token without its end
# Formats of models whose templates do not write calls, or not as the model does; found by a mark in the template.
_LFM2 = CallFormat("<|tool_call_start|>", CallShape.PYTHON, opening="<|tool_call_start|>", closing="<|tool_call_end|>")
_KIMI = CallFormat(
    "<|tool_calls_section_begin|>",
    CallShape.NAMED_JSON,
    opening="<|tool_call_begin|>functions.",
    after_name="<|tool_call_argument_begin|>",
    closing="<|tool_call_end|>",
    section_closing="<|tool_calls_section_end|>",
)
_KNOWN = {"<|tool_list_start|>": _LFM2, "<|im_system|>tool_declare<|im_middle|>": _KIMI}


@dataclass(frozen=True)
class _Rendered:
    """Prompts without generation prompt: a history that ends with one call, with two calls, with an answer.

    two: empty if the template allows only one call. names_in_ids: names are only shown as a part of the ids of calls.
    """

    one: str
    two: str
    answer: str
    names_in_ids: bool


@functools.lru_cache(maxsize=64)
def call_format(template: str) -> CallFormat:
    """Find how the template writes calls. Without any in its histories, known tags in its text decide."""
    known = next((found for mark, found in _KNOWN.items() if mark in template), None)
    rendered = next(_renderings(template), None)
    found = CallFormat() if rendered is None else _read(rendered, thinking_tags(template)[1])
    if found.shape is not CallShape.JSON:
        return found
    return known or replace(found, tag=tool_tag(template) or found.tag)


def _renderings(template: str) -> Iterator[_Rendered]:
    """Render the probes in the forms that the template may want, without tools first: they are not looked for here."""
    typed = typed_roles(template)

    def render(tools: list[dict] | None, *calls: dict) -> str:
        message = {"role": "assistant", "content": "" if calls else _ANSWER}
        message |= {"tool_calls": list(calls)} if calls else {}
        return written(template, as_parts([{"role": "user", "content": "a"}, message], typed), tools, asks=False) or ""

    # Some templates write the name only as a part of the id.
    until = time.monotonic() + _PROBE_SECONDS
    ids = (("call00000", "call00001"), tuple(f"functions.{name}:{at}" for at, name in enumerate(_NAMES)))
    for call_ids, tools, arguments in product(ids, (None, [_OTHER_TOOL]), (_ARGUMENTS, json.dumps(_ARGUMENTS))):
        first, second = (
            {"type": "function", "id": call_id, "function": {"name": name, "arguments": arguments}}
            for call_id, name in zip(call_ids, _NAMES)
        )
        if time.monotonic() > until:
            return
        one = render(tools, first)
        if _NAMES[0] in one:
            yield _Rendered(one, render(tools, first, second), render(tools), call_ids is ids[1])


def _read(rendered: _Rendered, thinking_closing: str) -> CallFormat:
    """Read the format off the rendered probes."""
    text = rendered.one
    name_at = text.find(_NAMES[0])
    name_end = name_at + len(_NAMES[0])
    answer_begun, found_answer, answer_end = rendered.answer.partition(_ANSWER)
    same = len(commonprefix((text[:name_at], answer_begun)))
    tag = _tag_before(text[:name_at], same, thinking_closing) or "{"
    wrapped = _read_json(text, name_at, same)
    if wrapped is not None:
        return replace(wrapped, tag=tag)
    key_at = text.find(_KEYS[0], name_end)
    if key_at < 0:
        return CallFormat(tag)
    object_at = _object_before(text, name_end, key_at)
    if object_at >= 0:
        _, arguments_end = json.JSONDecoder().raw_decode(text, object_at)
        found = CallFormat(tag, CallShape.NAMED_JSON, after_name=text[name_end:object_at])
    else:
        elements = _read_elements(text, name_end)
        if elements is None:
            return CallFormat(tag)
        found, arguments_end = elements
    end = text[arguments_end:]
    end = end[: len(end) - len(_common_suffix(end, answer_end if found_answer else ""))]
    if found.shape is CallShape.PYTHON:
        tag = "[" if tag == "{" else tag
        return replace(found, tag=tag, opening=tag, closing=end.strip().removeprefix("]").strip())
    answer_lead = answer_begun[same:].rpartition(thinking_closing)[2] if thinking_closing else answer_begun[same:]
    return _with_marks(replace(found, tag=tag), rendered, text[:name_at], arguments_end, end, answer_lead)


def _with_marks(
    found: CallFormat, rendered: _Rendered, before: str, arguments_end: int, end: str, answer_lead: str
) -> CallFormat:
    """Add the marks around each call. The text between two calls separates them from the marks around all calls.

    before: text up to the first name. end: text after the last arguments. answer_lead: text before an answer that does
    not stand before a call.
    """
    between = ""
    if rendered.two.startswith(before) and _NAMES[1] in rendered.two:
        between = rendered.two[arguments_end : rendered.two.find(_NAMES[1])]
    opening = _common_suffix(before, between)
    if opening.strip():
        closing = _common_prefix(between[: len(between) - len(opening)], end)
    elif found.tag == "{":
        return CallFormat()  # nothing stands before a call
    else:
        opening, closing = before[before.rfind(found.tag) :], end
    tag = found.tag if found.tag != "{" else _first_mark(opening)
    return replace(
        found,
        tag=tag,
        opening=opening.strip(),
        closing=closing.strip(),
        section_closing=end.removeprefix(closing).strip(),
        content_opening=answer_lead.strip() if found.tag == "{" else "",
        after_name=_unnumbered(found.after_name),
        names_in_ids=rendered.names_in_ids,
    )


def _unnumbered(after_name: str) -> str:
    """Drop the number of a call that follows its name in an id."""
    return after_name.removeprefix(":0")


def _first_mark(opening: str) -> str:
    special = _SPECIAL.match(opening.strip())
    return special[0] if special else opening.strip()


def _tag_before(text: str, same: int, thinking_closing: str) -> str:
    """Return the tag at the end of a prompt up to a name. Its first `same` characters stand before answers, too."""
    opened = max(text.rfind("<", 0, same), text.rfind("[", 0, same))
    if opened >= 0 and not re.search(r"[>\]\s]", text[opened:same]):
        same = opened  # the two differ inside a tag
    tag = text[same:]
    if thinking_closing:
        tag = tag.rpartition(thinking_closing)[2]
    tag = tag.partition("{")[0].strip()
    special = _SPECIAL.match(tag)
    return special[0] if special else tag.rstrip("[ \t\n")


def _read_json(text: str, name_at: int, begin: int) -> CallFormat | None:
    """Read the keys of a call that is one JSON object with its name; None if it is not."""
    for brace in re.finditer(r"\{", text[:name_at]):
        if brace.start() < begin:
            continue
        try:
            value, end = json.JSONDecoder().raw_decode(text, brace.start())
        except ValueError:
            continue
        if end > name_at:
            return _keys(value) or CallFormat()
    return None


def _keys(value: object) -> CallFormat | None:
    """Find the object in a JSON value whose member is the name, and the keys of name and arguments."""
    if isinstance(value, dict):
        name_key = next((key for key, item in value.items() if item == _NAMES[0]), None)
        if name_key is not None:
            keys = [key for key, item in value.items() if isinstance(item, (dict, str)) and _KEYS[0] in item]
            return CallFormat(name_key=name_key, arguments_key=keys[0] if keys else "arguments")
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for found in map(_keys, items) if found is not None), None)


def _object_before(text: str, begin: int, key_at: int) -> int:
    """Index of the JSON object between a name and its first key that holds the arguments; -1 if there is none."""
    at = text.find("{", begin, key_at)
    while at >= 0:
        try:
            value, _ = json.JSONDecoder().raw_decode(text, at)
            if value == _ARGUMENTS:
                return at
        except ValueError:
            pass
        at = text.find("{", at + 1, key_at)
    return -1


def _read_elements(text: str, name_end: int) -> tuple[CallFormat, int] | None:
    """Read arguments that are elements, or keywords of a Python call. Returns (format, end of the arguments)."""
    pattern = "(.*?)".join(map(re.escape, (_KEYS[0], _VALUES[0], _KEYS[1], _VALUES[1])))
    found = re.compile(f"(.*?){pattern}", re.DOTALL).match(text, name_end)
    if found is None:
        return None
    before, after_key, between, _ = found.groups()
    if before.strip() == "(" and after_key.strip(" \"'") == "=":
        end = text.find(")", found.end())
        return (CallFormat(shape=CallShape.PYTHON), end + 1) if end >= 0 else None
    value_closing = _common_prefix(between, text[found.end() :])
    key_opening = _common_suffix(before, between[len(value_closing) :])
    if not value_closing.strip() or not key_opening.strip() or not after_key.strip():
        return None
    elements = CallFormat(
        shape=CallShape.ELEMENTS,
        after_name=before[: len(before) - len(key_opening)],
        key_opening=key_opening.strip(),
        after_key=after_key.strip(),
        value_closing=value_closing.strip(),
    )
    return elements, found.end() + len(value_closing)


def _common_prefix(one: str, other: str) -> str:
    """The longest common beginning that does not end inside a tag."""
    size = len(commonprefix((one, other)))
    for text in (one, other):
        begins = [tag.start() for tag in _BEGUN.finditer(text) if tag.start() < size <= tag.end()]
        size = min([size, *begins])
    return one[:size]


def _common_suffix(one: str, other: str) -> str:
    """The longest common end that does not begin inside a tag."""
    size = len(commonprefix((one[::-1], other[::-1])))
    for text in (one, other):
        begin = len(text) - size
        ends = [tag.end() for tag in _SPECIAL.finditer(text) if tag.start() < begin < tag.end()]
        size = min([size, *(len(text) - end for end in ends)])
    return one[len(one) - size :]
