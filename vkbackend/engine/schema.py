"""Rewrites a client's JSON schema so that llguidance accepts it, with the same meaning as far as possible.

In: the parsed schema of a request's `format`. Out: `CleanSchema`. References are resolved here, so a definition may
have any name. A keyword that is null or of a wrong type counts as absent. Keywords that a grammar cannot enforce are
left out and listed; the others still hold. Objects that list their properties have no others, as in Ollama: a model
that may add more rarely stops.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from .pattern import without_look_around
from .schema_addresses import Addresses, InvalidSchema
from .schema_limits import MAX_PARTS
from .schema_values import MAX_COUNT, TYPES, digits_in, exponent, fits, is_writable, whole

MAX_DIGITS = 16  # of a number: before the point, after it, and in the exponent, as in Ollama's grammar
MAX_NAMED = 80  # logged characters of a client's text
LARGEST_BOUND = 2.0**63
SMALLEST_STEP = Decimal(1).scaleb(-MAX_DIGITS)
LARGEST = 10**MAX_DIGITS - 1

COUNTS = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))
LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
COMBINING = ("allOf", "anyOf", "oneOf")
# Keywords with which an object can have more than its `properties`.
SAYS_MORE = {"additionalProperties", "patternProperties", "$ref", *COMBINING}
ASSERTIONS = frozenset({*(name for pair in COUNTS for name in pair), *LOWER, *UPPER, "multipleOf", "pattern", "format"})
UNSUPPORTED = {
    "not", "if", "then", "else", "uniqueItems", "contains", "minContains", "maxContains", "propertyNames",
    "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems", "unevaluatedProperties",
    "$dynamicRef", "$recursiveRef", "disallow", "extends", "divisibleBy",
}  # fmt: skip


@dataclass(frozen=True)
class CleanSchema:
    """A schema for llguidance.

    left_out: ignored keywords with their values, for the log
    num_digits: maximum number of digits in a row in a number: MAX_DIGITS, or more if constants or bounds need it
    """

    schema: dict
    left_out: list[str]
    num_digits: int


def cleaned(
    schema: dict, takes_pattern: Callable[[str], bool], *, closes: bool = True, without: frozenset[str] = frozenset()
) -> CleanSchema:
    """Rewrite a schema.

    takes_pattern: whether a regular expression can become part of a grammar
    closes: objects that list their properties have no others
    without: keywords to leave out
    Raises InvalidSchema.
    """
    cleaner = _Cleaner(schema, takes_pattern, closes, without)
    return CleanSchema(cleaner.whole(), list(cleaner.left_out), max(cleaner.num_digits, MAX_DIGITS))


class _Cleaner:
    """Referenced schemas become definitions r0, r1, ... of the root. One that is used both closed and open becomes two
    definitions.
    """

    def __init__(self, root: dict, takes_pattern: Callable[[str], bool], closes: bool, without: frozenset[str]):
        self._root = root
        self._takes_pattern = takes_pattern
        self._closes = closes
        self._without = without
        self.left_out: dict[str, None] = {}
        self.num_digits = 0
        self._num_parts = 0
        self._addresses = Addresses(root)
        self._names: dict[tuple[int, bool], str] = {}
        self._waiting: deque[tuple[str, dict | bool, bool]] = deque()

    def whole(self) -> dict:
        result = self._schema(self._root, False)
        assert isinstance(result, dict), "the root is an object"
        definitions = {}
        while self._waiting:
            name, target, is_open = self._waiting.popleft()
            definitions[name] = self._schema(target, is_open)
        return {**result, "$defs": definitions} if definitions else result

    def _leave_out(self, keyword: str, value: object) -> None:
        text = repr(value)
        self.left_out[f"{keyword} {text if len(text) <= MAX_NAMED else text[:MAX_NAMED] + '...'}"] = None

    def _schema(self, node: object, is_open: bool) -> dict | bool:
        """is_open: other schemas apply to the same object, which may therefore have more properties."""
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            self._leave_out("schema", node)
            return True
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:  # `check_size` would reject the result
            raise InvalidSchema(f"it has more than {MAX_PARTS} parts")
        given = {}
        for name, value in node.items():
            if name in UNSUPPORTED and value not in (None, False) or name in self._without:
                self._leave_out(name, value)
            if name not in self._without and (value is not None or name == "const"):
                given[name] = value
        if given.get("unevaluatedProperties") is False and not given.keys() & SAYS_MORE:
            given["additionalProperties"] = False
        result: dict = {}
        self._types(given, result)
        self._constants(given, result)
        self._counts(given, result)
        self._bounds(given, result)
        self._text(given, result)
        self._object(given, result, is_open)
        self._array(given, result)
        self._others(node, given, result, is_open)
        return result

    def _types(self, given: dict, result: dict) -> None:
        kinds = given.get("type", [])
        kinds = [kind for kind in kinds if kind is not None] if isinstance(kinds, list) else [kinds]
        unknown = [kind for kind in kinds if not (isinstance(kind, str) and kind in TYPES)]
        if unknown:
            raise InvalidSchema(f"there is no type {unknown[0]!r}"[:MAX_NAMED])
        if kinds:
            result["type"] = list(dict.fromkeys(kinds)) if len(kinds) > 1 else kinds[0]
        elif "type" in given:
            self._leave_out("type", given["type"])

    def _constants(self, given: dict, result: dict) -> None:
        """`const` and `enum`. If none of the values has the `type`, it is ignored, as in Ollama."""
        values = given.get("enum", [])
        if values == [] and "enum" in given or not isinstance(values, list):
            self._leave_out("enum", values)
            values = []
        if "const" in given:
            values = [given["const"]]
        writable = []
        for value in values:
            if is_writable(value):
                writable.append(value)
            else:
                self._leave_out("enum", value)
        if not writable:
            return
        kinds = result.get("type", [])
        kinds = kinds if isinstance(kinds, list) else [kinds]
        fitting = [value for value in writable if any(fits(value, kind) for kind in kinds)]
        if kinds and not fitting:
            self._leave_out("type", result.pop("type"))
        self.num_digits = max(self.num_digits, *map(digits_in, fitting or writable))
        result["enum"] = fitting or writable

    def _counts(self, given: dict, result: dict) -> None:
        for least, most in COUNTS:
            for name in (least, most):
                count = whole(given.get(name))
                if count is not None and count >= 0:
                    result[name] = min(count, MAX_COUNT)
                elif name in given:
                    self._leave_out(name, given[name])
            if result.get(least, 0) > result.get(most, MAX_COUNT):
                self._leave_out(least, result.pop(least))

    def _bounds(self, given: dict, result: dict) -> None:
        """Bounds of numbers, rounded to what MAX_DIGITS digits can express."""
        lower = self._tightest(given, LOWER, upward=True)
        upper = self._tightest(given, UPPER, upward=False)
        if (
            lower
            and upper
            and (lower[1] > upper[1] or lower[1] == upper[1] and (lower[0] in LOWER[1:] or upper[0] in UPPER[1:]))
        ):
            self._leave_out(lower[0], given.get(lower[0], float(lower[1])))
            lower = None
        for name, value in filter(None, (lower, upper)):
            result[name] = int(value) if value == int(value) else float(value)
        inward = [bound[1] for bound, sign in ((lower, 1), (upper, -1)) if bound and bound[1] * sign > 0]
        self.num_digits = max(self.num_digits, *(len(str(abs(int(value)))) for value in inward), 0)
        self._multiple(given, result)

    def _tightest(self, given: dict, names: tuple[str, str], upward: bool) -> tuple[str, Decimal] | None:
        """The effective bound on one side, if any. Until 2017, `exclusiveMinimum` was a boolean that applied to
        `minimum`.
        """
        inclusive, exclusive = names
        found: list[tuple[str, Decimal]] = []
        for name in names:
            value = given.get(name)
            if isinstance(value, bool) and name == exclusive or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                self._leave_out(name, value)
            elif abs(value) < LARGEST_BOUND:
                found.append((exclusive if given.get(exclusive) is True else name, Decimal(repr(value))))
            elif (value < 0) == upward:
                # Holds for all numbers of MAX_DIGITS digits.
                found.append((inclusive, Decimal(-LARGEST if upward else LARGEST)))
            else:
                self._leave_out(name, value)
        if not found:
            return None
        name, bound = max(found, key=lambda item: (item[1] if upward else -item[1], item[0] == exclusive))
        rounded = bound
        if exponent(bound) < -MAX_DIGITS:
            rounded = bound.quantize(SMALLEST_STEP, ROUND_CEILING if upward else ROUND_FLOOR)
        if rounded != bound:
            return inclusive, rounded
        if name == exclusive and bound == 0 and "integer" not in str(given.get("type")):
            # Otherwise a number could begin as 0.0... without end.
            return inclusive, SMALLEST_STEP if upward else -SMALLEST_STEP
        return name, bound

    def _multiple(self, given: dict, result: dict) -> None:
        multiple = given.get("multipleOf")
        if multiple is None:
            return
        is_number = (
            isinstance(multiple, (int, float))
            and not isinstance(multiple, bool)
            and math.isfinite(multiple)
            and multiple > 0
        )
        number = Decimal(repr(multiple)).normalize() if is_number else None
        if number is None or exponent(number) < -MAX_DIGITS or number.scaleb(-min(exponent(number), 0)) >= 2**32:
            self._leave_out("multipleOf", multiple)
            return
        result["multipleOf"] = multiple
        # A number of the maximum length must be a multiple.
        if not any(name in result for name in LOWER):
            result["minimum"] = -LARGEST
        if not any(name in result for name in UPPER):
            result["maximum"] = LARGEST

    def _text(self, given: dict, result: dict) -> None:
        pattern = given.get("pattern")
        kinds = result.get("type", "string")
        if isinstance(pattern, str):
            self._pattern(pattern, result)
        elif pattern is not None:
            self._leave_out("pattern", pattern)
        name = given.get("format")
        if isinstance(name, str) and "string" in kinds:
            result["format"] = name
        elif name is not None and not isinstance(name, str):
            self._leave_out("format", name)

    def _pattern(self, pattern: str, result: dict) -> None:
        if self._takes_pattern(pattern):
            result["pattern"] = pattern
            return
        rest = without_look_around(pattern)
        held = [text for text in (rest.text, *rest.ahead) if self._takes_pattern(text)]
        self._leave_out("of pattern" if held else "pattern", pattern)
        if held:
            result["pattern"] = held.pop(0)
        if held:
            result["allOf"] = [{"pattern": text} for text in held]

    def _object(self, given: dict, result: dict, is_open: bool) -> None:
        properties = {} if given.get("properties") == [] else given.get("properties")
        if isinstance(properties, dict):
            result["properties"] = {
                name: self._schema(part, False) for name, part in properties.items() if part is not None
            }
        elif properties is not None:
            self._leave_out("properties", properties)
        more = given.get("additionalProperties")
        if isinstance(more, (bool, dict)):
            result["additionalProperties"] = self._schema(more, False)
        elif more is not None:
            self._leave_out("additionalProperties", more)
        self._by_pattern(given, result)
        required = given.get("required")
        names = (
            list(dict.fromkeys(name for name in required if isinstance(name, str)))
            if isinstance(required, list)
            else []
        )
        if required is not None and names != required:
            self._leave_out("of required", required)
        self._close(given, result, names, is_open)
        if names:
            result["required"] = names

    def _close(self, given: dict, result: dict, required: list[str], is_open: bool) -> None:
        """Close the object if nothing else gives it properties. Removes forbidden names from `required`."""
        properties = result.get("properties", {})
        if "properties" in result and self._closes and not is_open and not given.keys() & SAYS_MORE:
            properties.update({name: True for name in required if name not in properties})
            result["additionalProperties"] = False
        is_closed = result.get("additionalProperties") is False and "patternProperties" not in result
        forbidden = [name for name in required if properties.get(name, not is_closed) is False]
        for name in forbidden:
            self._leave_out("required", name)
            required.remove(name)

    def _by_pattern(self, given: dict, result: dict) -> None:
        patterns = given.get("patternProperties")
        if not isinstance(patterns, dict):
            if patterns is not None:
                self._leave_out("patternProperties", patterns)
            return
        taken = {
            pattern: self._schema(part, False)
            for pattern, part in patterns.items()
            if self._takes_pattern(pattern) and part is not None
        }
        for pattern in patterns.keys() - taken.keys():
            self._leave_out("patternProperties", pattern)
            result.pop("additionalProperties", None)  # names that match the pattern must stay possible
        if taken:
            result["patternProperties"] = taken

    def _array(self, given: dict, result: dict) -> None:
        items = given.get("items")
        first = given.get("prefixItems")
        if isinstance(items, list):  # until 2020, this is what prefixItems is now
            first, items = items if first is None else first, given.get("additionalItems")
        if isinstance(first, list):
            if first:
                result["prefixItems"] = [self._schema(part, False) for part in first]
        elif first is not None:
            self._leave_out("prefixItems", first)
        if isinstance(items, (bool, dict)):
            result["items"] = self._schema(items, False)
        elif items is not None:
            self._leave_out("items", items)

    def _others(self, node: dict, given: dict, result: dict, is_open: bool) -> None:
        """`$ref` and combined schemas. Those that describe the same object stay open."""
        parts = [name for name in ("$ref", "properties", "patternProperties", *COMBINING) if name in given]
        is_open = is_open or len(parts) > 1
        for name in COMBINING:
            some = given.get(name)
            if isinstance(some, list) and some:
                is_shared = is_open or name == "allOf" and len(some) > 1
                result[name] = result.get(name, []) + [self._schema(part, is_shared) for part in some]
            elif some is not None:
                self._leave_out(name, some)
        reference = given.get("$ref")
        if reference is None:
            return
        target = self._addresses.find(reference, node) if isinstance(reference, str) else None
        if target is None:
            self._leave_out("$ref", reference)
            return
        key = id(target), is_open
        if key not in self._names:
            self._names[key] = f"r{len(self._names)}"
            self._waiting.append((self._names[key], target, is_open))
        result["$ref"] = f"#/$defs/{self._names[key]}"
