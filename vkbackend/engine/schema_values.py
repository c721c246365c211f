"""Values in a JSON schema: constants, counts and bounds."""

import math
from decimal import Decimal

MAX_COUNT = 2**31 - 1  # of characters or items; llguidance's largest repetition

TYPES = {
    "string": str,
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
    "integer": int,
    "number": float,
}


def whole(value: object) -> int | None:
    """An int or float that is a whole number, as an int of at most MAX_COUNT; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return None
    if abs(value) > MAX_COUNT:
        return MAX_COUNT if value > 0 else -1
    return int(value) if value == int(value) else None


def is_writable(value: object) -> bool:
    """Whether JSON can represent a value: it cannot represent numbers that exceed a double."""
    if isinstance(value, list):
        return all(map(is_writable, value))
    if isinstance(value, dict):
        return all(map(is_writable, value.values()))
    return not isinstance(value, (int, float)) or abs(value) < 2.0**1023


def fits(value: object, kind: str) -> bool:
    """Whether a value has a type of TYPES."""
    if kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return kind == "number" or value == int(value)
    return isinstance(value, TYPES[kind])


def digits_in(value: object) -> int:
    """Digits in a row of the longest number in a value, written without an exponent."""
    if isinstance(value, (list, dict)):
        return max(map(digits_in, value.values() if isinstance(value, dict) else value), default=0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0
    number = Decimal(repr(value))
    num_digits = len(number.as_tuple().digits)
    return max(num_digits + exponent(number), num_digits, -exponent(number), 1)


def exponent(number: Decimal) -> int:
    """The power of ten of a finite number's last digit."""
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int), "the number is finite"
    return exponent
