"""Runs a model's steps on the numpy twins: the CPU path without ggml, and the reference for the other paths.

Each step shape is prepared once: which functions are called with which arguments, where their results go, and when they
can be freed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .builder import Graph, Kind, Value
from .host_executor import HostExecutor, PreparedStep, ValueReader, constant_argument, is_constant

Arrays = dict[Value, np.ndarray]  # base value -> its array; activations are (rows, row_stride)


@dataclass(frozen=True)
class Place:
    """Where a value is: columns `columns` (None: all) of its base's array, viewed as `shape`."""

    base: Value
    columns: slice | None
    shape: tuple[int, ...]

    @classmethod
    def of(cls, value: Value) -> "Place":
        """The place of a value; a whole base has no column range."""
        count = math.prod(value.shape[1:])
        whole = value.base.kind is not Kind.ACTIVATION or count == value.base.row_stride
        return cls(value.base, None if whole else slice(value.offset, value.offset + count), value.shape)

    def read(self, arrays: Arrays) -> np.ndarray:
        """A view: no copy."""
        array = arrays[self.base]
        if self.columns is not None:
            array = array[:, self.columns]
        return array if array.shape == self.shape else array.reshape(self.shape)

    def write(self, arrays: Arrays, result: np.ndarray) -> None:
        """Store an op's result: without a copy if it is the whole base."""
        base = self.base
        if self.columns is None:
            arrays[base] = result.reshape(base.shape[0], base.row_stride) if result.ndim > 2 else result
            return
        if base not in arrays:
            arrays[base] = np.empty((base.shape[0], base.row_stride), base.dtype)
        self.read(arrays)[...] = result


@dataclass(frozen=True)
class Call:
    """A call of an op's twin.

    inputs: arguments that are the same in every step (weights, caches, None); None for those in `reads`, which maps
    their index to a place. outputs: None for a cache, which is changed in place. unused: base values that no later
    call needs.
    """

    reference: Callable
    attrs: dict[str, Any]
    inputs: list[Any]
    reads: list[tuple[int, Place]]
    outputs: list[Place | None]
    unused: list[Value]


class NumpyStep(PreparedStep):
    """The calls of the twins for one step shape. keep: no array is freed before the step ends."""

    def __init__(self, graph: Graph, keep: bool):
        super().__init__(graph)
        unused = [[] for _ in graph.nodes] if keep else _unused_after(graph)
        self.calls = [
            Call(
                node.op.reference,
                node.attrs,
                [constant_argument(value) for value in node.inputs],
                [
                    (at, Place.of(value))
                    for at, value in enumerate(node.inputs)
                    if value is not None and not is_constant(value)
                ],
                [None if value.base.kind is Kind.STATE else Place.of(value) for value in node.outputs],
                unused[index],
            )
            for index, node in enumerate(graph.nodes)
        ]

    def run(self, inputs: Mapping[Value, np.ndarray]) -> ValueReader:
        """Call the twins one after the other."""
        arrays: Arrays = dict(inputs)
        for call in self.calls:
            arguments = call.inputs.copy()
            for index, place in call.reads:
                arguments[index] = place.read(arrays)
            results = call.reference(*arguments, **call.attrs)
            for place, result in zip(call.outputs, results if isinstance(results, tuple) else (results,)):
                if place is not None:
                    place.write(arrays, result)
            for value in call.unused:
                del arrays[value]
        return lambda value: Place.of(value).read(arrays)


class NumpyExecutor(HostExecutor):
    """Runs the numpy twins."""

    def prepare(self, graph: Graph) -> NumpyStep:
        """Choose the arguments of each twin."""
        return NumpyStep(graph, self.keep)


def _unused_after(graph: Graph) -> list[list[Value]]:
    """For each node, the base activations that no later node uses and that the host does not read."""
    last_use = {
        value.base: index
        for index, node in enumerate(graph.nodes)
        for value in [*node.inputs, *node.outputs]
        if value is not None and value.base.kind is Kind.ACTIVATION
    }
    lasting = {value.base for value in graph.lasting}
    unused: list[list[Value]] = [[] for _ in graph.nodes]
    for base, index in last_use.items():
        if base not in lasting:
            unused[index].append(base)
    return unused
