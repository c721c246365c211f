"""Go's time.Duration as text and as JSON: `5m`, `1h30m0s`, `-1` for forever.

A duration is an int of nanoseconds, as everywhere in the API.
"""

import re
from typing import Any

from vkbackend import cancellation

SECOND = 1_000_000_000
FOREVER = (1 << 63) - 1
MAX_DIGITS = 19  # digits of an int64; Python refuses to read numbers of thousands of digits
DEFAULT_KEEP_ALIVE = 300 * SECOND
_UNITS = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "μs": 1000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_PART = re.compile(r"([0-9]*)(\.[0-9]*)?([^0-9.]*)")
_KINDS = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}", type(None): "%!s(<nil>)"}


def quote(text: str) -> str:
    """Quote as the time package does: unlike strconv.Quote, characters beyond ASCII by their bytes, no \\n or \\t."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if " " <= character < "\x80":
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "replace"))


def _invalid(text: str) -> ValueError:
    return ValueError(f"time: invalid duration {quote(text)}")


def parse(text: str) -> int:
    """Nanoseconds of `1h30m`, `1.5s` or `-5m`. Raises ValueError in Go's words (time.ParseDuration)."""
    negative = text.startswith("-")
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    if not rest:
        raise _invalid(text)
    total = 0
    at = 0
    while at < len(rest):
        cancellation.check()
        match = _PART.match(rest, at)
        assert match is not None  # matches any text, even an empty one
        whole = match[1]
        fraction = (match[2] or "")[:MAX_DIGITS]
        unit = match[3]
        if not whole and fraction in ("", "."):
            raise _invalid(text)
        if not unit:
            raise ValueError(f"time: missing unit in duration {quote(text)}")
        if unit not in _UNITS:
            raise ValueError(f"time: unknown unit {quote(unit)} in duration {quote(text)}")
        scale = _UNITS[unit]
        if len(whole.lstrip("0")) > MAX_DIGITS:
            raise _invalid(text)
        total += int(whole.lstrip("0") or 0) * scale
        if len(fraction) > 1:
            total += int(fraction[1:]) * scale // 10 ** (len(fraction) - 1)
        if total > FOREVER + 1 or total > FOREVER and not negative:
            raise _invalid(text)
        at = match.end()
    return -total if negative else total


def text(nanoseconds: int) -> str:
    """Text of a duration: `1h0m0s`, `1.5ms`, `0s` (time.Duration.String)."""
    if nanoseconds == 0:
        return "0s"
    sign, size = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    for unit, scale in (("ns", 1), ("µs", 1000), ("ms", 1_000_000)):
        if size < 1000 * scale:
            return sign + _decimal(size, scale) + unit
    minutes, rest = divmod(size, 60 * SECOND)
    hours, minutes = divmod(minutes, 60)
    seconds = _decimal(rest, SECOND) + "s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else sign + seconds


def _decimal(size: int, scale: int) -> str:
    whole, rest = divmod(size, scale)
    digits = len(str(scale)) - 1
    return f"{whole}.{rest:0{digits}d}".rstrip("0") if rest else str(whole)


def from_json(value: Any) -> int:
    """Nanoseconds of a `keep_alive`: seconds as a float, or text with units; FOREVER if negative.

    Raises ValueError in Go's words.
    """
    if isinstance(value, float):
        if value < 0:
            return FOREVER
        nanoseconds = value * SECOND
        # Go's conversion of a float beyond 64 bits gives the smallest integer on amd64.
        return int(nanoseconds) if nanoseconds < 2.0**63 else -FOREVER - 1
    if isinstance(value, str):
        nanoseconds = parse(value)
        return FOREVER if nanoseconds < 0 else nanoseconds
    raise ValueError(f"Unsupported type: '{_KINDS.get(type(value), type(value).__name__)}'")


def to_json(nanoseconds: int) -> str:
    """JSON text of a duration: quoted, or -1 if it is negative."""
    return "-1" if nanoseconds < 0 else f'"{text(nanoseconds)}"'
