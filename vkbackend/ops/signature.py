"""The contract of an op's inputs: names, shapes and dtypes, checked before anything is recorded.

In: one line per argument and the relations between sizes. Out: `Signature.check`, which raises ValueError with the
argument, its actual dtype and shape, and the expected ones. Kernels rely on every one of these checks: for other inputs
they would compute wrong results.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_LINE = re.compile(r"(?P<name>\w+)(?P<optional>\?)? \((?P<dims>[^)]*)\) (?P<kinds>.+)")
_SHORT = {"f32": "float32", "f16": "float16", "i32": "int32"}
PACKED = "packed"  # a matrix of any format: `packed.PackedMatrix`
Rule = tuple[str, Callable[[dict], bool]]  # sentence, predicate of a dict of all sizes, attributes and arguments


@dataclass(frozen=True)
class Argument:
    """dims: a name per dimension, bound by the first argument that has it (or by an attribute); "..." stands for any
    number of dimensions, "n + 1" for one more than n.
    """

    name: str
    dims: tuple[str, ...]
    kinds: tuple[str, ...]
    optional: bool

    def __str__(self) -> str:
        kinds = " or ".join("PackedMatrix" if kind == PACKED else kind for kind in self.kinds)
        return f"{kinds} ({', '.join(self.dims)}{',' if len(self.dims) == 1 else ''})"

    def bind(self, shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
        """Bind the dims that `sizes` lacks to `shape`. False if `shape` does not fit."""
        dims = list(self.dims)
        if "..." in dims:
            at = dims.index("...")
            count = len(shape) - len(dims) + 1
            if count < 0:
                return False
            dims[at : at + 1] = [f"...{index}" for index in range(count)]
            if sizes.setdefault("...", count) != count:
                return False
        if len(dims) != len(shape):
            return False
        for dim, size in zip(dims, shape):
            name, more = _sum(dim)
            if sizes.setdefault(name, size - more) != size - more:
                return False
        return True


class Signature:
    """The arguments of an op, in order.

    lines: "x (T, heads, head_dim) f32", "residual? (T, n) f32" (may be None or left out at the end),
        "k_cache (...) f16|f32", "weight (N, K) packed".
    multiples: {size: required divisor}.
    rules: further conditions, each with the sentence that its error shows.
    """

    def __init__(self, *lines: str, multiples: dict[str, int] | None = None, rules: tuple[Rule, ...] = ()):
        self.arguments = tuple(_argument(line) for line in lines)
        self.multiples = multiples or {}
        self.rules = rules

    def complete(self, op: str, inputs: Sequence) -> list:
        """`inputs`, with None for optional ones left out at the end. Raises ValueError if one is missing or there are
        too many.
        """
        names = ", ".join(each.name + ("?" if each.optional else "") for each in self.arguments)
        if len(inputs) > len(self.arguments):
            raise ValueError(f"{op}: {len(inputs)} arguments given, it takes {len(self.arguments)}: {names}")
        filled = [*inputs, *[None] * (len(self.arguments) - len(inputs))]
        for argument, value in zip(self.arguments, filled):
            if value is None and not argument.optional:
                raise ValueError(f"{op}: {argument.name} is missing; it must be {argument}; it takes {names}")
        return filled

    def check(self, op: str, inputs: Sequence, attrs: Mapping[str, object]) -> None:
        """Raise ValueError unless `inputs` and `attrs` satisfy the signature. inputs: one per argument; numpy arrays,
        `TensorView`s, `PackedMatrix`es or None.
        """
        inputs = self.complete(op, inputs)
        sizes = {
            name: int(value)
            for name, value in attrs.items()
            if isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        }
        for argument, value in zip(self.arguments, inputs):
            if value is not None:
                self._check_argument(op, argument, value, sizes)
        everything = {**attrs, **sizes, **{argument.name: value for argument, value in zip(self.arguments, inputs)}}
        for sentence, holds in self.rules:
            if not holds(everything):
                shapes = ", ".join(
                    f"{argument.name} {_kind(value)} {tuple(value.shape)}"
                    for argument, value in zip(self.arguments, inputs)
                    if value is not None
                )
                shown_attrs = "".join(f", {name}={value!r}" for name, value in attrs.items())
                raise ValueError(f"{op}: {sentence}; got {shapes}{shown_attrs}")

    def _check_argument(self, op: str, argument: Argument, value: object, sizes: dict[str, int]) -> None:
        kind = _kind(value)
        shape = tuple(getattr(value, "shape", ()))
        if kind not in argument.kinds or not argument.bind(shape, sizes):
            names = dict.fromkeys(_sum(dim)[0] for dim in argument.dims)
            bound = [f"{name} = {sizes[name]}" for name in names if name in sizes and name != "..."]
            only_sizes_differ = kind in argument.kinds and len(shape) == len(argument.dims)
            where = f" where {', '.join(bound)}" if only_sizes_differ else ""
            raise ValueError(f"{op}: {argument.name} is {kind} {shape}; it must be {argument}{where}")
        for dim in (_sum(each)[0] for each in argument.dims):
            if dim in self.multiples and sizes[dim] % self.multiples[dim]:
                raise ValueError(
                    f"{op}: {argument.name} is {kind} {shape}; it must be {argument} with {dim} a multiple of "
                    f"{self.multiples[dim]}"
                )


def _sum(dim: str) -> tuple[str, int]:
    """ "n_rot + 1" -> ("n_rot", 1)."""
    name, _, more = dim.partition(" + ")
    return name, int(more or 0)


def _argument(line: str) -> Argument:
    found = _LINE.fullmatch(line)
    assert found is not None, f"not a line of a signature: {line!r}"
    dims = tuple(dim.strip() for dim in found["dims"].split(","))
    kinds = tuple(_SHORT.get(kind, kind) for kind in found["kinds"].split("|"))
    return Argument(found["name"], dims, kinds, found["optional"] is not None)


def _kind(value: object) -> str:
    """The dtype's name; PACKED for a matrix with a format; the type's name for anything else."""
    if hasattr(value, "format"):
        return PACKED
    dtype = getattr(value, "dtype", None)
    return type(value).__name__ if dtype is None else str(dtype)
