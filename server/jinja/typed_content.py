"""Whose messages a template wants as lists of typed parts, `[{"type": "text", "text": ...}]`, rather than as texts.

In: the template's text. Out: roles. Found by trying: a template that loops over parts drops a text without a word.
"""

import functools
import logging

from .process import worker

log = logging.getLogger(__name__)

_MARK = "typedcontentprobe"
_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "id": "call00000", "function": {"name": "f", "arguments": {}}}],
}


def _message(role: str, content: str = "a") -> dict:
    return {"role": role, "content": content}


# The user first: the other conversations need a user's message, too. Each has one message with the mark.
_PROBES = {
    "user": [_message("user", _MARK)],
    "system": [_message("system", _MARK), _message("user")],
    "assistant": [_message("user"), _message("assistant", _MARK), _message("user")],
    "tool": [_message("user"), _CALL, _message("tool", _MARK) | {"name": "f", "tool_call_id": "call00000"}],
}


def as_parts(messages: list[dict], roles: frozenset[str]) -> list[dict]:
    """The messages, those of these roles with their content as one part of text."""
    return [
        message | {"content": [{"type": "text", "text": message["content"]}]} if message["role"] in roles else message
        for message in messages
    ]


@functools.lru_cache(maxsize=64)
def typed_roles(template: str) -> frozenset[str]:
    """The roles whose content the template shows only as parts. Raises WorkerEnded and WorkerDoesNotStart."""
    typed: frozenset[str] = frozenset()
    for role, messages in _PROBES.items():
        if _shows(template, messages, typed):
            continue
        if _shows(template, messages, typed | {role}):
            typed |= {role}
        elif role == "user":
            log.warning(
                "the chat template in the model's file does not show what the user says; "
                "create the model with a TEMPLATE of its own"
            )
    return typed


def _shows(template, messages, typed) -> bool:
    variables = {
        "messages": as_parts(messages, typed),
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
        "bos_token": "",
        "eos_token": "",
    }
    return _MARK in worker.ask(template, variables).get("text", "")
