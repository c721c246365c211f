"""Names and types of a shader's specialization constants and push constants, and the words of their values.

In: declarations that shaders/build.py reads from GLSL, or a SPIR-V module. Out: `Interface`, with which a `Dispatch`
converts {name: value} to words.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import DeviceError, brief
from .spirv import Module

Value = int | float | bool
_INTEGER_RANGES = {"uint": (0, 2**32 - 1), "int": (-(2**31), 2**31 - 1)}


def as_word(value: Value, glsl_type: str) -> int | None:
    """A value of a GLSL type (bool, int, uint, float) as a uint32; None if it does not fit the type."""
    if isinstance(value, (bool, np.bool_)):
        return int(value) if glsl_type == "bool" else None
    if glsl_type == "float" and isinstance(value, (int, float, np.integer, np.floating)):
        return int(np.float32(value).view(np.uint32))
    if glsl_type in _INTEGER_RANGES and isinstance(value, (int, np.integer)):
        low, high = _INTEGER_RANGES[glsl_type]
        return int(value) & 0xFFFFFFFF if low <= value <= high else None
    return None


@dataclass(frozen=True)
class Interface:
    """constants: name -> (constant_id, GLSL type). push: name -> GLSL type, in the order of the push-constant block."""

    shader: str
    constants: Mapping[str, tuple[int, str]]
    push: Mapping[str, str]

    @classmethod
    def of_module(cls, shader: str, module: Module) -> "Interface":
        """The names in a SPIR-V module. A constant without one, such as a local size, is named by its number.

        Raises DeviceError for a constant that is not a scalar of 32 bits.
        """
        members = module.push.type.members if module.push else ()
        for name, kind in [(each.name, each.type) for each in (*module.constants.values(), *members)]:
            if kind.kind not in ("bool", "int", "uint", "float") or kind.kind != "bool" and kind.bits != 32:
                raise DeviceError(f"shader {shader}: constant {name} must be a bool, int, uint or float of 32 bits")
        return cls(
            shader,
            {each.name or str(number): (number, each.type.kind) for number, each in module.constants.items()},
            {member.name: member.type.kind for member in members},
        )

    def constant_words(self, values: Mapping[str, Value]) -> tuple[tuple[int, int], ...]:
        """(constant_id, word) of each constant. Raises DeviceError for an unknown or missing name, or a value that does
        not fit its type.
        """
        self._check_names("specialization constant", self.constants, values)
        return tuple((number, self._word(name, kind, values[name])) for name, (number, kind) in self.constants.items())

    def push_words(self, values: Mapping[str, Value]) -> tuple[int, ...]:
        """The words of the push-constant block. Raises DeviceError as `constant_words` does."""
        self._check_names("push constant", self.push, values)
        return tuple(self._word(name, kind, values[name]) for name, kind in self.push.items())

    def _check_names(self, what: str, known: Mapping[str, object], values: Mapping[str, Value]) -> None:
        if known.keys() == values.keys():
            return
        listed = ", ".join(known) or "none"
        for name in values:
            if name not in known:
                raise DeviceError(f"shader {self.shader} has no {what} {name}; it has: {listed}")
        missing = ", ".join(name for name in known if name not in values)
        raise DeviceError(f"shader {self.shader}: {what} {missing} has no value; required: {listed}")

    def _word(self, name: str, kind: str, value: Value) -> int:
        word = as_word(value, kind)
        if word is None:
            raise DeviceError(f"shader {self.shader}: {name} is {brief(value)}; it must be of type {kind}")
        return word
