"""Regular expressions as JSON schemas have them (those of ECMAScript) -> those that a grammar can hold a text to."""

import re
from dataclasses import dataclass

# An escape, a class of characters, the beginning of a group (how it begins), the end of one, a quantifier, any other
# character.
_PARTS = re.compile(
    r"(?P<escape>\\(?:k<[^>]*>|[1-9][0-9]*|c[A-Za-z]|.))|(?P<set>\[\^?(?:\\.|[^\]\\])*\])"
    r"|(?P<look>\(\?(?:[=!]|<[=!]))|(?P<comment>\(\?\#[^)]*\))|(?P<group>\((?:\?>|\?P?<[A-Za-z_$][\w$]*>|\?:)?)|(?P<end>\))"
    r"|(?P<quantifier>(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})[?+]?)|(?P<other>.)",
    re.DOTALL,
)
_IN_SETS = re.compile(r"\\.|\[|&&|--|~~", re.DOTALL)
_ANYTHING = r"(?s:.*)"
_EMPTY_SETS = {"[]": r"[^\s\S]", "[^]": r"[\s\S]"}


@dataclass(frozen=True)
class Pattern:
    """What is left of a regular expression. ahead: expressions that the same text fits, which stood in look-aheads
    at its beginning.
    """

    text: str
    ahead: list[str]


def without_look_around(pattern: str) -> Pattern:
    """The pattern without what looks around (and word boundaries), its groups plain, its back references as
    anything: every text that fits the pattern fits the result. What is no regular expression comes back in some form
    that is none either.
    """
    pieces: list[str] = []
    ahead: list[str] = []
    depth, begin, is_gone, has_branches = 0, 0, False, False
    skipping = 0  # the depth within a look-around
    for part in _PARTS.finditer(pattern):
        kind, text = part.lastgroup, part[0]
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
            continue  # of what is no longer there
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
    """Signs that mean something within a set only outside of ECMAScript."""
    return match[0] if match[0].startswith("\\") else "".join("\\" + sign for sign in match[0])
