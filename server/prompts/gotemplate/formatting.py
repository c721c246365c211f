"""Go's fmt for template values: Sprint, Sprintf and the quoting of strings.

Verbs and flags: https://pkg.go.dev/fmt. Go prints pointers below the top level as addresses; here they print as values.
"""

import math
import re

from ...go.encode import shortest_digits
from ...go.text import is_printable
from .budget import Writer
from .values import Bytes, Map, Slice, Struct, string_bytes, string_from, type_name, unwrap

SHORTEST_EXPONENT = 6  # %g and %v in their shortest form write larger exponents
MAX_WIDTH, MAX_DIGITS = 1000, 9  # of a width or precision; Go allows a million
_QUOTED = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\"}
_DIRECTIVE = re.compile(r"%([-+# 0]*)(?:\[(\d+)\])?(\*|\d+)?(?:(\.)(?:\[(\d+)\])?(\*|\d+)?)?(?:\[(\d+)\])?", re.DOTALL)


def quote(text: str, mark: str = '"', ascii_only: bool = False) -> str:
    """Quote as strconv.Quote: escapes what is not printable, and bytes that are not UTF-8 as \\x.."""
    pieces = [mark]
    for char in text:
        code = ord(char)
        if char == mark:
            pieces.append("\\" + char)
        elif char in _QUOTED:
            pieces.append(_QUOTED[char])
        elif 0xDC80 <= code <= 0xDCFF:
            pieces.append(f"\\x{code - 0xDC00:02x}")
        elif is_printable(char) and (code < 128 or not ascii_only):
            pieces.append(char)
        elif code < 0x80:
            pieces.append(f"\\x{code:02x}")
        else:
            pieces.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(pieces) + mark


def sprint(*values: object) -> str:
    """Go's Sprint: adds a space between operands when neither is a string."""
    written = Writer()
    for index, value in enumerate(values):
        if index and not isinstance(unwrap(value), str) and not isinstance(unwrap(values[index - 1]), str):
            written.add(" ")
        written.add(format_value(value, Verb("v")))
    return written.text


def sprintln(*values: object) -> str:
    """Go's Sprintln: spaces between operands and a newline at the end."""
    written = Writer()
    for index, value in enumerate(values):
        written.add(" " if index else "")
        written.add(format_value(value, Verb("v")))
    written.add("\n")
    return written.text


class Verb:
    """One directive of a format: letter, flags, width and precision (None if absent)."""

    def __init__(self, letter: str, flags: str = "", width: int | None = None, precision: int | None = None):
        self.letter = letter
        self.flags = flags
        self.width = width
        self.precision = precision

    def has(self, flag: str) -> bool:
        return flag in self.flags

    def pad(self, text: str) -> str:
        """Pad to the width in characters; zeros go after a sign."""
        missing = (self.width or 0) - len(text)
        if missing <= 0:
            return text
        if self.has("-"):
            return text + " " * missing
        if self.has("0") and self.letter not in "sqvxX" or self.has("0") and text[:1].isdecimal():
            sign = text[:1] if text[:1] in "+-" else ""
            return sign + "0" * missing + text[len(sign) :]
        return ("0" if self.has("0") and self.letter in "sq" else " ") * missing + text


def sprintf(layout: str, *values: object) -> str:
    """Go's Sprintf, including its %!verb(type=value) marks for misuse."""
    written = Writer()
    at = 0
    number = 0  # index of the next operand
    reordered = False  # whether an explicit index [n] was used
    while at < len(layout):
        percent = layout.find("%", at)
        if percent < 0:
            written.add(layout[at:])
            break
        written.add(layout[at:percent])
        match = _DIRECTIVE.match(layout, percent)
        assert match is not None  # every part of a directive but the % is optional
        flags, first, width_text, dot, _, precision_text, last = match.groups()
        at = match.end()
        if at >= len(layout) or _is_too_large(width_text) or _is_too_large(precision_text):
            written.add("%!(NOVERB)")
            break
        letter = layout[at]
        at += 1
        if first and width_text != "*":
            number, reordered = _position(first), True
        width, number = _star(width_text, values, number, written, "WIDTH")
        if width is not None and width < 0:
            width, flags = -width, flags + "-"
        precision_text = "0" if dot and precision_text is None else precision_text
        precision, number = _star(precision_text, values, number, written, "PREC")
        if last:
            number, reordered = _position(last), True
        verb = Verb(letter, flags, width, precision)
        if letter == "%":
            written.add("%")
        elif number >= len(values) or number < 0:
            written.add(f"%!{letter}({'BADINDEX' if first or last else 'MISSING'})")
        else:
            written.add(format_value(values[number], verb))
            number += 1
    if not reordered and number < len(values):
        extra = ", ".join(
            "<nil>" if unwrap(v) is None else f"{type_name(v)}={format_value(v, Verb('v'))}" for v in values[number:]
        )
        written.add(f"%!(EXTRA {extra})")
    return written.text


def _is_too_large(number: str | None) -> bool:
    """Whether a width or precision is too large, which ends the output as in Go. The limit is lower than Go's because
    printing a list pads each item.
    """
    if number is None or number == "*":
        return False
    return len(number) > MAX_DIGITS or int(number) > MAX_WIDTH


def _position(number: str) -> int:
    """Index of an operand from [number]. Digits beyond MAX_DIGITS are cut: no such operand exists anyway."""
    return int(number[:MAX_DIGITS]) - 1


def _star(
    text: str | None, values: tuple[object, ...], number: int, written: Writer, name: str
) -> tuple[int | None, int]:
    """Read a width or precision; `*` takes it from the values. Returns (value, number of the next operand)."""
    if text != "*":
        return (None if text is None else int(text)), number
    value = unwrap(values[number]) if number < len(values) else None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_WIDTH or value < 0 and name == "PREC":
        written.add(f"%!(BAD{name})")
        return None, number + 1
    return value, number + 1


def _bad(value: object, verb: Verb) -> str:
    if unwrap(value) is None:
        return f"%!{verb.letter}(<nil>)"
    return f"%!{verb.letter}({type_name(value)}={format_value(value, Verb('v'))})"


def format_value(value: object, verb: Verb, depth: int = 0) -> str:
    """Format one operand with one verb."""
    value = unwrap(value)
    letter = verb.letter
    if letter == "T" and depth == 0:
        return verb.pad(type_name(value))
    if value is None:
        return verb.pad("<nil>") if letter == "v" else _bad(value, verb)
    if letter in "vsxXq" and isinstance(value, Slice) and value.text is not None:
        value = value.text(value)
    elif letter in "vsxXq" and isinstance(value, Struct) and value.text is not None and not verb.has("#"):
        value = value.text(value)
    if isinstance(value, bool):
        return verb.pad("true" if value else "false") if letter in "tv" else _bad(value, verb)
    if isinstance(value, int):
        return _integer(value, verb)
    if isinstance(value, float):
        return _float(value, verb)
    if isinstance(value, complex):
        return _complex(value, verb)
    if isinstance(value, str):
        return _string(value, verb)
    if isinstance(value, Bytes):
        return _bytes(value, verb, depth)
    if isinstance(value, Slice):
        return "[" + " ".join(format_value(item, verb, depth + 1) for item in value.items or ()) + "]"
    if isinstance(value, Map):
        pairs = (
            f"{format_value(k, verb, depth + 1)}:{format_value(v, verb, depth + 1)}" for k, v in value.sorted_items()
        )
        return "map[" + " ".join(pairs) + "]"
    if isinstance(value, Struct):
        if value.pointer and depth and letter not in "vp":
            return f"%!{letter}({type_name(value)}={format_value(value, Verb('v'))})"
        return ("&" if value.pointer else "") + struct_text(value, verb, depth)
    return _bad(value, verb)


def struct_text(value: Struct, verb: Verb, depth: int = 0) -> str:
    """Write a struct's fields in braces; the flag + adds their names."""
    named = verb.has("+") and verb.letter == "v"
    return (
        "{"
        + " ".join(
            (f"{name}:" if named else "") + format_value(item, verb, depth + 1) for name, item in value.fields.items()
        )
        + "}"
    )


def _integer(value: int, verb: Verb) -> str:
    letter, value = verb.letter, int(value)
    if letter in "vd":
        text = str(abs(value))
    elif letter in "bo":
        text = format(abs(value), letter)
        text = ("0" + letter if letter == "b" and verb.has("#") else "0" if verb.has("#") else "") + text
    elif letter == "O":
        text = "0o" + format(abs(value), "o")
    elif letter in "xX":
        text = ("0" + letter if verb.has("#") else "") + format(abs(value), letter)
    elif letter == "c":
        return verb.pad(chr(value) if 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000 else "\ufffd")
    elif letter == "q":
        return verb.pad(quote(chr(value) if 0 <= value <= 0x10FFFF else "\ufffd", "'", verb.has("+")))
    elif letter == "U":
        return verb.pad(f"U+{value:04X}" + (f" '{chr(value)}'" if verb.has("#") and is_printable(chr(value)) else ""))
    else:
        return f"%!{letter}({type_name(value)}={value})"
    if verb.precision is not None:
        text = text.rjust(verb.precision, "0") if value or verb.precision else ""
    return verb.pad(_sign(value < 0, verb) + text)


def _sign(negative: bool, verb: Verb) -> str:
    return "-" if negative else "+" if verb.has("+") else " " if verb.has(" ") else ""


def _float(value: float, verb: Verb) -> str:
    letter = verb.letter
    if letter not in "vbgGxXfFeE":
        return f"%!{letter}(float64={float_text(value, 'g', -1)})"
    precision = -1 if verb.precision is None else verb.precision
    if letter in "fFeE" and verb.precision is None:
        precision = 6
    text = float_text(abs(value), {"v": "g", "F": "f"}.get(letter, letter), precision)
    return verb.pad(_sign(math.copysign(1, value) < 0, verb) + text)


def float_text(value: float, letter: str, precision: int) -> str:
    """strconv.FormatFloat for e, f and g. precision -1: the shortest text that parses to the same number."""
    if math.isnan(value) or math.isinf(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    upper = letter.isupper()
    letter = letter.lower()
    if precision < 0:
        negative, digits, point = shortest_digits(value)
        exponent = point - 1
        if letter == "e" or letter == "g" and not -4 <= exponent < SHORTEST_EXPONENT:
            text = digits[0] + ("." + digits[1:] if len(digits) > 1 else "") + f"e{exponent:+03d}"
        elif exponent < 0:
            text = "0." + "0" * (-exponent - 1) + digits
        else:
            whole = digits[: exponent + 1].ljust(exponent + 1, "0")
            text = whole + ("." + digits[exponent + 1 :] if len(digits) > exponent + 1 else "")
        text = "-" * negative + text
    else:
        text = format(value, f".{precision}{letter}")
    return text.upper() if upper else text


def _complex(value: complex, verb: Verb) -> str:
    part = Verb(verb.letter, verb.flags.replace("+", ""), None, verb.precision)
    imaginary = Verb(verb.letter, verb.flags + "+", None, verb.precision)
    return verb.pad(f"({_float(value.real, part)}{_float(value.imag, imaginary)}i)")


def _string(text: str, verb: Verb) -> str:
    letter = verb.letter
    if letter in "vs":
        return verb.pad(text if verb.precision is None else text[: verb.precision])
    if letter == "q":
        text = text if verb.precision is None else text[: verb.precision]
        if verb.has("#") and "`" not in text and all(map(is_printable, text)):
            return verb.pad(f"`{text}`")
        return verb.pad(quote(text, ascii_only=verb.has("+")))
    if letter in "xX":
        return verb.pad(_hex(string_bytes(text), verb))
    return f"%!{letter}(string={text})"


def _hex(data: bytes, verb: Verb) -> str:
    data = data if verb.precision is None else data[: verb.precision]
    text = data.hex(" ") if verb.has(" ") else data.hex()
    if verb.has("#"):
        text = " ".join("0x" + byte for byte in text.split(" "))
    return text.upper() if verb.letter == "X" else text


def _bytes(value: Bytes, verb: Verb, depth: int) -> str:
    if verb.letter in "vd":
        return "[" + " ".join(_integer(byte, Verb("d", verb.flags, verb.width)) for byte in value.data) + "]"
    return _string(string_from(value.data), verb)
