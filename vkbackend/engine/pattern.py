"""Translates the regular expressions of JSON schemas (those of ECMAScript) into ones that a grammar can enforce."""

import re
from dataclasses import dataclass

# An escape, a character class, the beginning of a group, its end, a quantifier, any other character.
_PARTS = re.compile(
    r"(?P<escape>\\(?:k<[^>]*>|[1-9][0-9]*|c[A-Za-z]|.))|(?P<set>\[\^?(?:\\.|[^\]\\])*\])"
    r"|(?P<look>\(\?(?:[=!]|<[=!]))|(?P<comment>\(\?\#[^)]*\))|(?P<group>\((?:\?>|\?P?<[A-Za-z_$][\w$]*>|\?:)?)"
    r"|(?P<end>\))"
    r"|(?P<quantifier>(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})[?+]?)|(?P<other>.)",
    re.DOTALL,
)
_IN_SETS = re.compile(r"\\.|\[|&&|--|~~", re.DOTALL)
_ANYTHING = r"(?s:.*)"
_EMPTY_SETS = {"[]": r"[^\s\S]", "[^]": r"[\s\S]"}


@dataclass(frozen=True)
class Pattern:
    """A regular expression without look-arounds.

    ahead: expressions that the same text must match, from look-aheads at the beginning
    """

    text: str
    ahead: list[str]


def without_look_around(pattern: str) -> Pattern:
    """Remove look-arounds and word boundaries from a pattern, make its groups plain, and let its back references match
    anything. Every text that matches the pattern matches the result. An invalid expression stays invalid.
    """
    pieces: list[str] = []
    ahead: list[str] = []
    depth = 0
    begin = 0  # of the look-ahead being skipped
    is_gone = False  # whether the previous part was removed
    has_branches = False
    skipping = 0  # depth within a look-around
    for part in _PARTS.finditer(pattern):
        kind = part.lastgroup or ""  # every alternative of _PARTS is named
        text = part[0]
        if skipping:
            skipping += {"look": 1, "group": 1, "end": -1}.get(kind, 0)
            is_gone = True
            if not skipping and begin and pieces == ["^"]:
                ahead.append(f"^(?:{pattern[begin : part.start()]})")
        elif kind == "look":
            skipping, begin = 1, part.end() if text == "(?=" else 0
        elif kind == "comment" or text in (r"\b", r"\B"):
            is_gone = True
        elif kind == "quantifier" and is_gone:
            continue  # it applies to a removed part
        else:
            is_gone = False
            depth += {"group": 1, "end": -1}.get(kind, 0)
            has_branches = has_branches or text == "|" and depth == 0
            pieces.append(_plain(kind, text))
    return Pattern("".join(pieces), [] if has_branches else ahead)


def _plain(kind: str, text: str) -> str:
    if kind == "group":
        return "(?:" if text != "(" else text
    if kind == "set":
        return _EMPTY_SETS.get(text) or text[0] + _IN_SETS.sub(_escaped, text[1:-1]) + text[-1]
    if kind == "other":
        return "\\" + text if text in ("{", "}") else text
    if kind == "escape" and (text[1] == "k" or text[1] in "123456789"):
        return _ANYTHING
    if kind == "escape" and text[1] == "c" and len(text) > 2:
        return f"\\x{ord(text[2]) % 32:02x}"
    return text


def _escaped(match: re.Match) -> str:
    """Escape characters that are special in a class of other dialects, but not in ECMAScript's."""
    return match[0] if match[0].startswith("\\") else "".join("\\" + sign for sign in match[0])
