"""Runs a model's steps on the numpy twins: the CPU path, and the reference for the device path.

In: a model whose weights are not on a device, a `CacheStorage` of numpy arrays, `StepInputs`. Out: what
`step.step_outputs` returns. Each step shape is prepared once: which functions are called with which arguments, where
their results go, and when they can be freed.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from .builder import Graph, Kind, Value
from .cache import CacheStorage, CacheTensor
from .forward import CacheValues, build
from .model import Model
from .step import RowReader, StepInputs, StepOutput, StepShape, check_kept, step_outputs
from .vector import Vector

KEPT_PLANS = 16

Arrays = dict[Value, np.ndarray]  # base value -> its array; activations are (rows, row_stride)


@dataclass(frozen=True)
class Place:
    """Where a value is: columns `columns` (None: all) of its base's array, viewed as `shape`."""

    base: Value
    columns: slice | None
    shape: tuple[int, ...]

    @classmethod
    def of(cls, value: Value) -> "Place":
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


@dataclass(frozen=True)
class PreparedStep:
    graph: Graph
    calls: list[Call]
    names: dict[str, Place]  # name of each activation -> where it is


class NumpyExecutor:
    """`run(step)` returns the step's outputs; `submit(step)` and `wait()` are its two halves.

    With `keep`, `read(name)` then returns any intermediate of that step.
    """

    def __init__(self, model: Model, cache: CacheStorage, keep: bool = False):
        self.model = model
        self.cache = cache
        self.keep = keep
        self.results: list[np.ndarray] = []  # the graph's results in the last step
        self._plans: OrderedDict[tuple[StepShape, tuple[int, int]], PreparedStep] = OrderedDict()
        self._kept: tuple[PreparedStep, Arrays] | None = None
        self._submitted: tuple[StepInputs, dict[str, np.ndarray] | None] | None = None

    def submit(self, step: StepInputs, inputs: dict[str, np.ndarray] | None = None) -> None:
        """Store a step for `wait`, which runs it: there is no device to run it in the meantime."""
        self._submitted = step, inputs

    def wait(self) -> list[StepOutput]:
        """Run the submitted step. Raises ValueError if there is none."""
        if self._submitted is None:
            raise ValueError("no step was submitted")
        return self.run(*self._submitted)

    def run(self, step: StepInputs, inputs: dict[str, np.ndarray] | None = None) -> list[StepOutput]:
        """Run one step; returns what `step.step_outputs` returns.

        inputs: arrays for the inputs that the graph declares with `Graph.input`.
        """
        plan = self._plan(
            StepShape(
                len(step.tokens),
                len(step.output_rows),
                num_scored=len(step.scored_rows),
                with_candidates=step.with_candidates,
                num_hidden=len(step.hidden_rows),
                num_embedded=len(step.embedded_rows),
                has_rope_positions=len(step.rope_positions) > 0,
                has_limits=len(step.limits) > 0,
            ),
            step.page_tables[0].shape,
        )
        graph = plan.graph
        arrays: Arrays = {value: getattr(step, name) for name, value in graph.step.items()}
        arrays.update((value, step.page_tables[group].rows) for group, value in graph.page_tables.items())
        arrays.update((graph.inputs[name], array) for name, array in step.arrays(graph.inputs, inputs).items())
        for call in plan.calls:
            arguments = call.inputs.copy()
            for index, place in call.reads:
                arguments[index] = place.read(arrays)
            results = call.reference(*arguments, **call.attrs)
            for place, result in zip(call.outputs, results if isinstance(results, tuple) else (results,)):
                if place is not None:
                    place.write(arrays, result)
            for value in call.unused:
                del arrays[value]
        if self.keep:
            self._kept = plan, arrays
        self.results = [arrays[value] for value in graph.results]
        return step_outputs(
            step, self.results, _row_reader(graph.logits, arrays), _row_reader(graph.scored_logits, arrays)
        )

    def read(self, name: str) -> np.ndarray:
        """An intermediate of the last step, such as "blk.3.attn_norm". A value that a later op changes in place (q and
        k by rope) is returned as changed.

        Raises KeyError, which lists the known names; ValueError without `keep` or before the first step.
        """
        check_kept(self.keep, self._kept is not None)
        assert self._kept is not None
        plan, arrays = self._kept
        if name not in plan.names:
            raise KeyError(f"{name}; there are: {', '.join(plan.names)}")
        return plan.names[name].read(arrays).copy()

    def timings(self) -> NoReturn:
        """Raises ValueError: only `DeviceExecutor` has dispatches to time."""
        raise ValueError("there are no dispatches to time on the CPU: open a device with timestamps=True")

    def _plan(self, shape: StepShape, table_shape: tuple[int, int]) -> PreparedStep:
        key = (shape, table_shape)
        if key not in self._plans:
            self._plans[key] = self._prepare(self._graph(shape, table_shape))
            if len(self._plans) > KEPT_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    def _graph(self, shape: StepShape, table_shape: tuple[int, int]) -> Graph:
        return build(self.model, CacheValues(self.cache), shape, table_shape, self.keep)

    def _prepare(self, graph: Graph) -> PreparedStep:
        unused = [[] for _ in graph.nodes] if self.keep else _unused_after(graph)
        calls = [
            Call(
                node.op.reference,
                node.attrs,
                [_constant(value) for value in node.inputs],
                [
                    (at, Place.of(value))
                    for at, value in enumerate(node.inputs)
                    if value is not None and not _is_constant(value)
                ],
                [None if value.base.kind is Kind.STATE else Place.of(value) for value in node.outputs],
                unused[index],
            )
            for index, node in enumerate(graph.nodes)
        ]
        names: dict[str, Place] = {}
        for node in graph.nodes:
            for value in node.outputs:
                if value.base.kind is Kind.ACTIVATION:
                    names.setdefault(value.name, Place.of(value))
        return PreparedStep(graph, calls, names)


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


def _row_reader(logits: Value | None, arrays: Arrays) -> RowReader:
    """Reads single rows of `logits`, which is None in a step that has no such rows."""
    rows = None if logits is None else Place.of(logits).read(arrays)

    def read(row: int) -> np.ndarray:
        assert rows is not None
        return rows[row].copy()

    return read


def _is_constant(value: Value) -> bool:
    return value.base.kind in (Kind.WEIGHT, Kind.STATE)


def _constant(value: Value | None) -> Any:
    """The argument of a twin for a weight or a cache; None for other values."""
    constant = value and value.base.constant
    if isinstance(constant, CacheTensor):
        return constant.array
    if isinstance(constant, Vector):
        return constant.values
    return constant
