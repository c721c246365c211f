"""Runs a model's steps on the numpy twins: the CPU path, and the oracle of the device path.

In: a model whose weights were not placed, a `CacheStorage` of numpy arrays, `StepInputs`. Out: `RowOutput`s. A step
of each size is prepared once: which function is called with what, where its result goes, and what is not needed any
more.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..ops.packed import PackedMatrix
from .builder import Graph, Kind, Value, elements
from .cache import CacheStorage
from .forward import CacheValues, build
from .step import StepInputs, StepShape, check_kept, step_outputs

KEPT_PLANS = 16

Arrays = dict[Value, np.ndarray]  # base value -> its array; of an activation (rows, row_stride)


@dataclass(frozen=True)
class Place:
    """Where a value lies: in the array of its base, the columns `columns` (None: all) seen as `shape`."""

    base: Value
    columns: slice | None
    shape: tuple[int, ...]

    @classmethod
    def of(cls, value: Value) -> "Place":
        count = elements(value.shape[1:])
        whole = value.base.kind is not Kind.ACTIVATION or count == value.base.row_stride
        return cls(value.base, None if whole else slice(value.offset, value.offset + count), value.shape)

    def read(self, arrays: Arrays) -> np.ndarray:
        """A view: no copy."""
        array = arrays[self.base]
        if self.columns is not None:
            array = array[:, self.columns]
        return array if array.shape == self.shape else array.reshape(self.shape)

    def write(self, arrays: Arrays, result: np.ndarray) -> None:
        """Keep the array itself where it is the whole value."""
        base = self.base
        if self.columns is None:
            arrays[base] = result.reshape(base.shape[0], base.row_stride) if result.ndim > 2 else result
            return
        if base not in arrays:
            arrays[base] = np.empty((base.shape[0], base.row_stride), base.dtype)
        self.read(arrays)[...] = result


@dataclass(frozen=True)
class Call:
    """inputs: what is the same in every step (weights, caches, None), and None where a value is read from its place
    among `reads`. outputs: None for a cache, changed in place. over: base values that nothing needs after this call.
    """

    reference: Callable
    attrs: dict
    inputs: list
    reads: list[tuple[int, Place]]
    outputs: list[Place | None]
    over: list[Value]


@dataclass(frozen=True)
class Plan:
    graph: Graph
    calls: list[Call]
    names: dict[str, Place]  # of every activation that an op made


class NumpyExecutor:
    """`run(step)`; afterwards `read(name)` gives any intermediate, where it was made with `keep`."""

    def __init__(self, model, cache: CacheStorage, keep: bool = False):
        self.model, self.cache, self.keep = model, cache, keep
        self._plans: OrderedDict[tuple, Plan] = OrderedDict()
        self._kept: tuple[Plan, Arrays] | None = None
        self._submitted: StepInputs | None = None
        self.results: list[np.ndarray] = []  # of the last step: the graph's results

    def submit(self, step: StepInputs) -> None:
        """Take a step that `wait` runs: there is no device that could work meanwhile."""
        self._submitted = step

    def wait(self) -> list:
        return self.run(self._submitted)

    def run(self, step: StepInputs, inputs: dict[str, np.ndarray] | None = None) -> list:
        """inputs: arrays for what the graph declares as its inputs beside the step's arrays. -> what
        `step.step_outputs` says.
        """
        plan = self._plan(
            StepShape(
                len(step.tokens),
                len(step.output_rows),
                num_scored=len(step.scored_rows),
                with_candidates=step.with_candidates,
                num_hidden=len(step.hidden_rows),
            ),
            step.page_table.shape,
        )
        graph = plan.graph
        arrays: Arrays = {value: getattr(step, name) for name, value in graph.step.items()}
        arrays.update((graph.inputs[name], array) for name, array in (inputs or {}).items())
        for call in plan.calls:
            arguments = call.inputs.copy()
            for index, place in call.reads:
                arguments[index] = place.read(arrays)
            results = call.reference(*arguments, **call.attrs)
            for place, result in zip(call.outputs, results if isinstance(results, tuple) else (results,)):
                if place is not None:
                    place.write(arrays, result)
            for value in call.over:
                del arrays[value]
        if self.keep:
            self._kept = plan, arrays
        self.results = [arrays[value] for value in graph.results]
        logits, scored = (value and Place.of(value).read(arrays) for value in (graph.logits, graph.scored_logits))
        return step_outputs(step, self.results, lambda row: logits[row].copy(), lambda row: scored[row].copy())

    def read(self, name: str) -> np.ndarray:
        """An intermediate as the last step left it, such as "blk.3.attn_norm"; what is changed in place (rope on q
        and k) is read changed. Raises KeyError with the names that there are, ValueError without `keep` or before a
        step.
        """
        check_kept(self.keep, self._kept is not None)
        plan, arrays = self._kept
        if name not in plan.names:
            raise KeyError(f"{name}; there are: {', '.join(plan.names)}")
        return plan.names[name].read(arrays).copy()

    def timings(self) -> list:
        """Raises ValueError: `DeviceExecutor` measures dispatches, and there are none here."""
        raise ValueError("the numpy twins have no dispatches to measure: open a device, with timestamps=True")

    def _plan(self, shape: StepShape, table_shape: tuple[int, int]) -> Plan:
        key = (shape, table_shape)
        if key not in self._plans:
            self._plans[key] = self._prepare(self._graph(*key))
            if len(self._plans) > KEPT_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    def _graph(self, shape: StepShape, table_shape: tuple[int, int]) -> Graph:
        return build(self.model, CacheValues(self.cache), shape, *table_shape, self.keep)

    def _prepare(self, graph: Graph) -> Plan:
        last_use = {
            value.base: index
            for index, node in enumerate(graph.nodes)
            for value in [*node.inputs, *node.outputs]
            if value is not None and value.base.kind is Kind.ACTIVATION
        }
        over: list[list[Value]] = [[] for _ in graph.nodes]
        if not self.keep:
            lasting = {value.base for value in graph.lasting}
            for base, index in last_use.items():
                if base not in lasting:
                    over[index].append(base)
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
                over[index],
            )
            for index, node in enumerate(graph.nodes)
        ]
        names: dict[str, Place] = {}
        for node in graph.nodes:
            for value in node.outputs:
                if value.base.kind is Kind.ACTIVATION:
                    names.setdefault(value.name, Place.of(value))
        return Plan(graph, calls, names)


def _is_constant(value: Value) -> bool:
    return value.base.kind in (Kind.WEIGHT, Kind.STATE)


def _constant(value: Value | None):
    """The matrix, vector or cache behind a value; None for others."""
    if value is None or not _is_constant(value):
        return None
    if value.base.kind is Kind.STATE:
        return value.constant.array
    return value.constant if isinstance(value.constant, PackedMatrix) else value.constant.values
