"""Text as Go's fmt and strconv write it: quoted strings (%q), values (%v, %#v).

In: Python values as they come out of JSON. Out: text that clients of the original server know.
"""

import codecs

from .go_json import mantissa, positional, shortest_digits

_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\", '"': '\\"'}


def quote(text: str) -> str:
    """A Go string literal, as strconv.Quote writes it: printable characters stay, others become escapes."""
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    # Go prints letters, marks, numbers, punctuation, symbols and the ASCII space, which is what isprintable() says.
    if character.isprintable():
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def value(item) -> str:
    """`%v` of a value decoded from JSON: numbers shortest, strings bare, lists in brackets, maps sorted."""
    if item is None:
        return "<nil>"
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, float):
        return general_float(item)
    if isinstance(item, list):
        return "[" + " ".join(map(value, item)) + "]"
    if isinstance(item, dict):
        return "map[" + " ".join(f"{key}:{value(item[key])}" for key in sorted(item)) + "]"
    return str(item)


def sharp_value(item) -> str:
    """`%#v` of a scalar decoded from JSON: like `%v`, but strings are quoted."""
    return quote(item) if isinstance(item, str) else value(item)


def general_float(number: float) -> str:
    """`%g` with the shortest digits that read back the same: 100000, 1e+06, 0.0001, 1e-05."""
    if number != number:
        return "NaN"
    if number in (float("inf"), float("-inf")):
        return "+Inf" if number > 0 else "-Inf"
    negative, digits, point = shortest_digits(number)
    exponent = point - 1
    if exponent < -4 or exponent >= 6:  # as if the precision were 6
        text = f"{mantissa(digits)}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    else:
        text = positional(digits, point)
    return "-" + text if negative else text


def decode_utf8(data: bytes) -> str:
    """Each byte that is no UTF-8 becomes a replacement character of its own."""
    return data.decode("utf-8", "go-replace")


codecs.register_error("go-replace", lambda error: ("\ufffd" * (error.end - error.start), error.end))
