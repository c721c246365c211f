"""What an op takes: names, shapes and dtypes of its arguments, checked before anything is recorded.

In: one line per argument and the relations between sizes. Out: `Signature.check`, which raises ValueError with the
argument, what it is and what it must be. Kernels rely on every one of these: what they do not cover is not computed
wrongly but refused.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_LINE = re.compile(r"(?P<name>\w+)(?P<optional>\?)? \((?P<dims>[^)]*)\) (?P<kinds>.+)")
_SHORT = {"f32": "float32", "f16": "float16", "i32": "int32"}
PACKED = "packed"  # a matrix of any format: `packed.PackedMatrix`


@dataclass(frozen=True)
class Argument:
    """dims: a name per dimension, bound by the first argument that has it (or by an attribute); "..." stands for any
    number of them.
    """

    name: str
    dims: tuple[str, ...]
    kinds: tuple[str, ...]
    optional: bool

    def __str__(self) -> str:
        kinds = " or ".join("PackedMatrix" if kind == PACKED else kind for kind in self.kinds)
        return f"{kinds} ({', '.join(self.dims)}{',' if len(self.dims) == 1 else ''})"

    def bind(self, shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
        """Whether `shape` fits `dims`, with what is bound already; binds the rest."""
        dims = list(self.dims)
        if "..." in dims:
            at = dims.index("...")
            count = len(shape) - len(dims) + 1
            if count < 0:
                return False
            dims[at : at + 1] = [f"...{index}" for index in range(count)]
            if sizes.setdefault("...", count) != count:
                return False
        return len(dims) == len(shape) and all(sizes.setdefault(dim, size) == size for dim, size in zip(dims, shape))


class Signature:
    """lines: "x (T, heads, head_dim) f32", "residual? (T, n) f32" (may be None or left out), "k_cache (...) f16|f32", "weight (N, K) packed".

    multiples: {size: what it must be a multiple of}. rules: (sentence, predicate of a dict of all sizes, attributes
    and arguments).
    """

    def __init__(
        self,
        *lines: str,
        multiples: dict[str, int] | None = None,
        rules: tuple[tuple[str, Callable[[dict], bool]], ...] = (),
    ):
        self.arguments = tuple(_argument(line) for line in lines)
        self.multiples, self.rules = multiples or {}, rules

    def complete(self, op: str, inputs) -> list:
        """`inputs` with None for optional ones that were left out at the end. Raises ValueError where one is missing
        or too many are there.
        """
        names = ", ".join(each.name + ("?" if each.optional else "") for each in self.arguments)
        if len(inputs) > len(self.arguments):
            raise ValueError(f"{op}: {len(inputs)} arguments given, it takes {len(self.arguments)}: {names}")
        filled = [*inputs, *[None] * (len(self.arguments) - len(inputs))]
        for argument, value in zip(self.arguments, filled):
            if value is None and not argument.optional:
                raise ValueError(f"{op}: {argument.name} is missing, must be {argument}; it takes {names}")
        return filled

    def check(self, op: str, inputs, attrs: dict) -> None:
        """inputs: one per argument; numpy arrays, `TensorView`s, `PackedMatrix`es or None. Raises ValueError."""
        inputs = self.complete(op, inputs)
        sizes = {
            name: value
            for name, value in attrs.items()
            if isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        }
        for argument, value in zip(self.arguments, inputs):
            if value is None:
                continue
            kind, shape = _kind(value), tuple(getattr(value, "shape", ()))
            if kind not in argument.kinds or not argument.bind(shape, sizes):
                bound = [
                    f"{dim} = {sizes[dim]}" for dim in dict.fromkeys(argument.dims) if dim in sizes and dim != "..."
                ]
                where = (
                    f" where {', '.join(bound)}" if kind in argument.kinds and len(shape) == len(argument.dims) else ""
                )
                raise ValueError(f"{op}: {argument.name} is {kind} {shape}, must be {argument}{where}")
            for dim in argument.dims:
                if dim in self.multiples and sizes[dim] % self.multiples[dim]:
                    raise ValueError(
                        f"{op}: {argument.name} is {kind} {shape}, must be {argument} with {dim} a multiple of "
                        f"{self.multiples[dim]}"
                    )
        everything = {**attrs, **sizes, **{argument.name: value for argument, value in zip(self.arguments, inputs)}}
        for sentence, holds in self.rules:
            if not holds(everything):
                shapes = ", ".join(
                    f"{argument.name} {_kind(value)} {tuple(value.shape)}"
                    for argument, value in zip(self.arguments, inputs)
                    if value is not None
                )
                raise ValueError(
                    f"{op}: {sentence}; got {shapes}{''.join(f', {name}={value!r}' for name, value in attrs.items())}"
                )


def _argument(line: str) -> Argument:
    found = _LINE.fullmatch(line)
    kinds = tuple(_SHORT.get(kind, kind) for kind in found["kinds"].split("|"))
    return Argument(
        found["name"], tuple(dim.strip() for dim in found["dims"].split(",")), kinds, found["optional"] is not None
    )


def _kind(value) -> str:
    """The dtype's name; PACKED for a matrix that has a format; the type's name for what is no array."""
    if hasattr(value, "format"):
        return PACKED
    return str(value.dtype) if hasattr(value, "dtype") else type(value).__name__
