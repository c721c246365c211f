"""Model and request options: defaults, updates from JSON, and typed values of Modelfile parameters.

In: maps from JSON (numbers are floats) or lists of strings. Out: `Options`, or a map for a params layer.
Defaults are those of Ollama 0.12.11's api.DefaultOptions.
"""

import re
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from vkbackend import settings

from ..go.binding import ListOf, Pointer, wire
from ..go.encode import Float32
from ..go.kinds import BOOL, FLOAT32, INT, STRING, Kind

STRINGS = ListOf(STRING)


@dataclass
class Options:
    """Options of one generation. num_thread 0, and num_gpu, seed or num_predict -1 leave the choice to the engine."""

    num_ctx: int = wire(INT, "num_ctx", omit_empty=True)
    num_batch: int = wire(INT, "num_batch", omit_empty=True)
    num_gpu: int = wire(INT, "num_gpu", omit_empty=True)
    main_gpu: int = wire(INT, "main_gpu", omit_empty=True)
    use_mmap: bool | None = wire(Pointer(BOOL), "use_mmap", omit_empty=True)
    num_thread: int = wire(INT, "num_thread", omit_empty=True)
    num_keep: int = wire(INT, "num_keep", omit_empty=True)
    seed: int = wire(INT, "seed", omit_empty=True)
    num_predict: int = wire(INT, "num_predict", omit_empty=True)
    top_k: int = wire(INT, "top_k", omit_empty=True)
    top_p: float = wire(FLOAT32, "top_p", omit_empty=True)
    min_p: float = wire(FLOAT32, "min_p", omit_empty=True)
    typical_p: float = wire(FLOAT32, "typical_p", omit_empty=True)
    repeat_last_n: int = wire(INT, "repeat_last_n", omit_empty=True)
    temperature: float = wire(FLOAT32, "temperature", omit_empty=True)
    repeat_penalty: float = wire(FLOAT32, "repeat_penalty", omit_empty=True)
    presence_penalty: float = wire(FLOAT32, "presence_penalty", omit_empty=True)
    frequency_penalty: float = wire(FLOAT32, "frequency_penalty", omit_empty=True)
    stop: list[str] | None = wire(STRINGS, "stop", omit_empty=True)

    @classmethod
    def defaults(cls) -> "Options":
        """Ollama's defaults; num_ctx is OLLAMA_CONTEXT_LENGTH."""
        return cls(
            num_ctx=settings.get("OLLAMA_CONTEXT_LENGTH"),
            num_batch=512,
            num_gpu=-1,
            num_keep=4,
            seed=-1,
            num_predict=-1,
            top_k=40,
            top_p=0.9,
            typical_p=1.0,
            repeat_last_n=64,
            temperature=0.8,
            repeat_penalty=1.1,
        )

    def update(self, values: dict | None) -> "Options":
        """Overwrite options with values from JSON, in place; null and unknown names are skipped.

        Raises ValueError in Ollama's words.
        """
        for name, value in (values or {}).items():
            kind = KINDS.get(name)
            if kind is not None and value is not None:
                setattr(self, name, _checked(name, kind, value))
        return self


KINDS = {field.name: field.metadata["kind"] for field in fields(Options)}


def _checked(name: str, kind: Kind[Any], value: Any) -> Any:
    def must_be(what: str) -> ValueError:
        return ValueError(f'option "{name}" must be {what}')

    if kind is INT:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise must_be("of type integer")
        return _to_int64(value)
    if kind is FLOAT32:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise must_be("of type float32")
        return float(value)
    if kind is STRINGS:
        if not isinstance(value, (list, tuple)):
            raise must_be("of type array")
        if not all(isinstance(item, str) for item in value):
            raise must_be("of an array of strings")
        return list(value)
    if not isinstance(value, bool):
        raise must_be("of type boolean")
    return value


def _to_int64(value: float) -> int:
    """Truncate to an integer; a value beyond 64 bits becomes the smallest one, as in Go on amd64."""
    if isinstance(value, float) and not -(2.0**63) <= value < 2.0**63:
        return -1 << 63
    return int(value)


def format_parameters(strings: dict[str, list[str]]) -> dict:
    """Typed values of PARAMETER lines (name to its texts): int, float, bool, or for `stop` the list.

    Raises ValueError in Ollama's words.
    """
    result = {}
    for name, texts in strings.items():
        kind = KINDS.get(name)
        if kind is None:
            raise ValueError(f"unknown parameter '{name}'")
        result[name] = list(texts) if kind is STRINGS else _parse_text(kind, texts)
    return result


def _parse_text(kind: Kind[Any], texts: list[str]) -> int | float | bool:
    shown = "[" + " ".join(texts) + "]"
    text = texts[0]
    if kind is INT:
        if not re.fullmatch(r"[+-]?[0-9]+", text) or not -1 << 63 <= int(text) < 1 << 63:
            raise ValueError(f"invalid int value {shown}")
        return int(text)
    if kind is FLOAT32:
        number = _parse_float(text)
        if number is None:
            raise ValueError(f"invalid float value {shown}")
        return Float32(str(np.float32(number)))  # the float64 that its JSON text reads back as
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(f"invalid bool value {shown}")


def _parse_float(text: str) -> float | None:
    """strconv.ParseFloat(text, 32): decimal and hexadecimal numbers, inf and nan.

    None for other texts and for numbers beyond 32 bits.
    """
    if re.fullmatch(r"[+-]?(inf|infinity)|nan", text, re.IGNORECASE):
        return float(text)
    if re.fullmatch(r"[+-]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][+-]?[0-9]+)?", text):
        number = float(text.replace("_", ""))
    elif re.fullmatch(
        r"[+-]?0[xX]_?([0-9a-fA-F][0-9a-fA-F_]*\.?[0-9a-fA-F_]*|\.[0-9a-fA-F][0-9a-fA-F_]*)[pP][+-]?[0-9]+", text
    ):
        try:
            number = float.fromhex(text.replace("_", ""))
        except OverflowError:
            return None
    else:
        return None
    return number if abs(number) < 3.4028235677973366e38 else None
