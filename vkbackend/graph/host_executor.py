"""What the executors of the CPU have in common: steps as `StepInputs`, prepared once for each step shape.

In: a model whose weights are not on a device, a `CacheStorage` of numpy arrays, `StepInputs`. Out: what
`step.step_outputs` returns.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from .builder import Graph, Kind, Value
from .cache import CacheStorage, CacheTensor
from .forward import CacheValues, build
from .model import Model
from .step import RowReader, StepInputs, StepOutput, StepShape, check_kept, step_outputs
from .vector import Vector

KEPT_PLANS = 16

ValueReader = Callable[[Value], np.ndarray]  # a view of what a step computed for a value


class PreparedStep(ABC):
    """A graph that is ready to run. names: the activations by their names."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.names: dict[str, Value] = {}
        for node in graph.nodes:
            for value in node.outputs:
                if value.base.kind is Kind.ACTIVATION:
                    self.names.setdefault(value.name, value)

    @abstractmethod
    def run(self, inputs: Mapping[Value, np.ndarray]) -> ValueReader:
        """Run the step on the arrays of its inputs; returns what reads its values until the next step."""
        ...


class HostExecutor(ABC):
    """`run(step)` returns the step's outputs; `submit(step)` and `wait()` are its two halves.

    With `keep`, `read(name)` then returns any intermediate of that step.
    """

    def __init__(self, model: Model, cache: CacheStorage, keep: bool = False):
        self.model = model
        self.cache = cache
        self.keep = keep
        self.results: list[np.ndarray] = []  # the graph's results in the last step
        self._plans: OrderedDict[tuple[StepShape, tuple[int, int]], PreparedStep] = OrderedDict()
        self._kept: tuple[PreparedStep, ValueReader] | None = None
        self._submitted: tuple[StepInputs, dict[str, np.ndarray] | None] | None = None

    @abstractmethod
    def prepare(self, graph: Graph) -> PreparedStep:
        """Make a graph ready to run."""
        ...

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
        arrays = {value: getattr(step, name) for name, value in graph.step.items()}
        arrays.update((value, step.page_tables[group].rows) for group, value in graph.page_tables.items())
        arrays.update((graph.inputs[name], array) for name, array in step.arrays(graph.inputs, inputs).items())
        read = plan.run(arrays)
        if self.keep:
            self._kept = plan, read
        self.results = [read(value) for value in graph.results]
        return step_outputs(step, self.results, _row_reader(graph.logits, read), _row_reader(graph.scored_logits, read))

    def read(self, name: str) -> np.ndarray:
        """An intermediate of the last step, such as "blk.3.attn_norm". A value that a later op changes in place (q and
        k by rope) is returned as changed.

        Raises KeyError, which lists the known names; ValueError without `keep` or before the first step.
        """
        check_kept(self.keep, self._kept is not None)
        assert self._kept is not None
        plan, read = self._kept
        if name not in plan.names:
            raise KeyError(f"{name}; there are: {', '.join(plan.names)}")
        return read(plan.names[name]).copy()

    def timings(self) -> NoReturn:
        """Raises ValueError: only `DeviceExecutor` has dispatches to time."""
        raise ValueError("there are no dispatches to time on the CPU: open a device with timestamps=True")

    def _plan(self, shape: StepShape, table_shape: tuple[int, int]) -> PreparedStep:
        key = (shape, table_shape)
        if key not in self._plans:
            graph = build(self.model, CacheValues(self.cache), shape, table_shape, self.keep)
            self._plans[key] = self.prepare(graph)
            if len(self._plans) > KEPT_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]


@dataclass(frozen=True)
class HostPath:
    """How the CPU runs its share of a model. make_executor: takes the model, its cache and keep. reads_halves: a cache
    of float16 is read as fast as one of float32. kernels: names of the ops that run without `Op.host_scratch`.
    """

    make_executor: Callable[[Model, CacheStorage, bool], HostExecutor]
    reads_halves: bool
    kernels: frozenset[str] = frozenset()


def _row_reader(logits: Value | None, read: ValueReader) -> RowReader:
    """Reads single rows of `logits`, which is None in a step that has no such rows."""
    rows = None if logits is None else read(logits)

    def read_row(row: int) -> np.ndarray:
        assert rows is not None
        return rows[row].copy()

    return read_row


def is_constant(value: Value) -> bool:
    """Whether a value is the same in every step: a weight or a cache."""
    return value.base.kind in (Kind.WEIGHT, Kind.STATE)


def constant_argument(value: Value | None) -> object:
    """The argument of a numpy reference for a weight or a cache; None for other values."""
    constant = value and value.base.constant
    if isinstance(constant, CacheTensor):
        return constant.array
    if isinstance(constant, Vector):
        return constant.values
    return constant
