"""Finds by trial which forms of messages and tools a template takes: it ignores the forms it does not know.

In: the template's text. Out: roles whose content is a list of parts, the place of tools.
The functions raise WorkerEnded and WorkerDoesNotStart.
"""

import functools
import json
import logging
import re
from enum import Enum, auto

from .tags import knows_tools, reads_tools_from_messages
from .worker_process import worker

log = logging.getLogger(__name__)

_MARK = "wordsofaprobe"
# The list itself, as Python or JSON writes it: a template that shows a part of the text, such as its first
# characters, shows the first items of a list.
_LIST = re.compile(rf"""["']text["']: ?["']{_MARK}""")
PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": _MARK,
        "description": "Probe.",
        "parameters": {
            "type": "object",
            "required": ["city"],
            "properties": {"city": {"type": "string", "description": "A city."}},
        },
    },
}


def _message(role: str, content: str = "a") -> dict:
    return {"role": role, "content": content}


def _call(name: str, arguments: dict | str) -> dict:
    function = {"name": name, "arguments": arguments}
    return _message("assistant", "") | {"tool_calls": [{"type": "function", "id": "call00000", "function": function}]}


# The user comes first, because the other conversations contain a user message, too. One message of each has the mark.
_PROBES = {
    "user": [_message("user", _MARK)],
    "system": [_message("system", _MARK), _message("user")],
    "assistant": [_message("user"), _message("assistant", _MARK), _message("user")],
    "tool": [_message("user"), _call("f", {}), _message("tool", _MARK) | {"name": "f", "tool_call_id": "call00000"}],
}


def as_parts(messages: list[dict], roles: frozenset[str]) -> list[dict]:
    """Return the messages, with the content of these roles as a list of one text part."""
    return [
        message | {"content": [{"type": "text", "text": message["content"]}]} if message["role"] in roles else message
        for message in messages
    ]


@functools.lru_cache(maxsize=64)
def typed_roles(template: str) -> frozenset[str]:
    """Return the roles whose content the template shows only as a list, `[{"type": "text", "text": ...}]`."""
    typed: frozenset[str] = frozenset()
    for role, messages in _PROBES.items():
        plain = written(template, as_parts(messages, typed))
        if _MARK in (plain or ""):
            continue
        as_list = written(template, as_parts(messages, typed | {role})) or ""
        if _MARK in as_list and not _LIST.search(as_list):
            typed |= {role}
        elif plain is not None and role in ("user", "system"):
            _warn(f"does not show {role} messages")
    return typed


class ToolsPlace(Enum):
    """Where a template looks for the tools."""

    VARIABLE = auto()
    MESSAGE = auto()  # the key `tools` of the system message
    MESSAGE_TEXT = auto()  # the same key, as JSON text


@functools.lru_cache(maxsize=64)
def tools_place(template: str) -> ToolsPlace:
    """Find where the template looks for the tools; VARIABLE if it shows them nowhere."""

    def shows(place: ToolsPlace) -> bool:
        messages, tools = placed([_message("user")], [PROBE_TOOL], place)
        return _MARK in (written(template, as_parts(messages, typed_roles(template)), tools) or "")

    places = list(ToolsPlace) if reads_tools_from_messages(template) else [ToolsPlace.VARIABLE]
    found = next((place for place in places if shows(place)), None)
    if found is None and knows_tools(template):
        _warn("does not show the tools")
    return found or ToolsPlace.VARIABLE


def placed(messages: list[dict], tools: list[dict] | None, place: ToolsPlace) -> tuple[list[dict], list[dict] | None]:
    """Return (messages, the variable `tools`). Adds a system message if the tools need one."""
    if not tools or place is ToolsPlace.VARIABLE:
        return messages, tools or None
    if not messages or messages[0]["role"] != "system":
        messages = [_message("system", ""), *messages]
    value = tools if place is ToolsPlace.MESSAGE else json.dumps(tools, ensure_ascii=False)
    return [messages[0] | {"tools": value}, *messages[1:]], None


def written(template: str, messages: list[dict], tools: list[dict] | None = None, asks: bool = True) -> str | None:
    """Render the template. Returns None if it rejects the messages."""
    variables = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": asks}
    return worker.ask(template, variables | {"bos_token": "", "eos_token": ""}).get("text")


def _warn(lack: str) -> None:
    log.warning("the chat template in the model file %s; create the model with a TEMPLATE", lack)
