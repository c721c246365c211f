"""Runs a model's steps on a Vulkan device. A step of each size is recorded once and then replayed.

In: a model whose weights are on the device, its cache, `StepInputs`. Out: what `step.step_outputs` returns. A step of
n tokens uses the plan of the next larger bucket (1, 2, 4, ... token slots); unused slots have position -1. To make a
plan, the model is called on symbolic values, activations are placed, and dispatches are recorded (`recorded_step.py`).
After that, only the step buffer changes.
"""

import logging
import time
from dataclasses import replace

import numpy as np

from .. import _native, settings
from ..device.buffers import Buffer
from ..device.context import Device
from ..device.dispatch import Dispatch
from ..ops import attention, matmul
from ..ops.op import TensorView
from ..ops.tuning import Tuning
from .builder import Graph, Kind, Value
from .cache import CacheStorage
from .forward import CacheValues, build
from .model import Model
from .planner import ALIGNMENT, plan_arena, storage_bytes
from .recorded_step import RecordedStep, Recording, submissions
from .step import PageTable, StepInputs, StepOutput, StepShape, bucket, check_kept, step_outputs
from .views import Views

TUNED_AT = 2  # tune before the second run of a shape: during the first, a user is waiting for a token
ROUNDED_TOKENS = 16  # fewest tokens in a step for VKBACKEND_PREFILL's precision to apply

log = logging.getLogger(__name__)


class DeviceExecutor:
    """`run(step)` returns the step's outputs; `submit(step)` and `wait()` are its two halves.

    `read(name)` returns an intermediate of the last step, `timings()` the seconds of each dispatch. phases: (name,
    begin, end) of what the host did in the last step, by time.perf_counter.

    table_shape: (S, P) of the page tables. max_tokens, max_outputs, max_scored: sizes of the largest step. keep: do
    not reuse the memory of intermediates, for `read`. tuned_at: the run of a step shape before which its kernels are
    measured. timestamps: time each dispatch. skip_barrier: leave out one derived barrier of plans with a single
    submission, to show that it is needed.
    """

    def __init__(
        self,
        device: Device,
        model: Model,
        cache: CacheStorage,
        *,
        table_shape: tuple[int, int],
        max_tokens: int = 128,
        max_outputs: int = 32,
        max_scored: int = 32,
        keep: bool = False,
        timestamps: bool = False,
        skip_barrier: int | None = None,
        tuned_at: int = TUNED_AT,
    ):
        self.device = device
        self.model = model
        self.cache = cache
        self.max_tokens = max_tokens
        self.max_outputs = max_outputs
        self.max_scored = max_scored
        self.table_shape = table_shape
        self.keep = keep
        self.timestamps = timestamps
        self.skip_barrier = skip_barrier
        self.tuned_at = tuned_at
        self.precision = _precision(device)
        self.phases: list[tuple[str, float, float]] = []
        self._lengths = {  # of the arrays in the step buffer
            "tokens": max_tokens,
            "positions": max_tokens,
            "sequences": max_tokens,
            "output_rows": max_outputs,
            "scored_rows": max_scored,
            "targets": max_scored,
            "hidden_rows": max_outputs,
            "embedded_rows": max_tokens,
            "rope_positions": 4 * max_tokens,
            "limits": max_tokens,
        }
        self._step_buffers = self._make_step_buffers()
        self._written: dict[int, tuple[PageTable, list[int]]] = {}  # the table in each group's buffer, its versions
        self._plans: dict[StepShape, RecordedStep] = {}
        self._tuning = Tuning(device, settings.get("VKBACKEND_AUTOTUNE"))
        self._activations: _native.Memory | None = None
        self._results: _native.Memory | None = None
        self._readback: _native.Memory | None = None
        self._last: RecordedStep | None = None
        self._running: tuple[RecordedStep, StepInputs] | None = None  # submitted, not waited for

    def run(self, step: StepInputs, inputs: dict[str, np.ndarray] | None = None) -> list[StepOutput]:
        """Run one step; returns what `step.step_outputs` returns.

        inputs: arrays (n, ...) for the inputs that the graph declares with `Graph.input`. Raises ValueError if the
        step is larger than the executor's largest, DeviceError, DeviceLost.
        """
        self.submit(step, inputs)
        return self.wait()

    def submit(self, step: StepInputs, inputs: dict[str, np.ndarray] | None = None) -> None:
        """Begin a step. Do not use the executor or its device until `wait` has returned."""
        if self._running is not None:
            raise ValueError("a step is running; wait for it first")
        begin = time.perf_counter()
        self._check_size(step)
        plan = self._plan_to_run(self.step_shape(step))
        for name, value in plan.graph.step.items():
            if value.shape[0]:
                self._fill(name, getattr(step, name), 0 if name in ("tokens", "sequences") else -1)
        for group, value in plan.graph.page_tables.items():
            self._write_table(group, value.name, step.page_tables[group])
        for name, array in step.arrays(plan.graph.inputs, inputs).items():
            self.device.upload(plan.views[plan.graph.inputs[name]].buffer, array)
        self._last = plan
        filled = time.perf_counter()
        plan.submit()
        self._running = plan, step
        self.phases = [("fill", begin, filled), ("submit", filled, time.perf_counter())]

    def _check_size(self, step: StepInputs) -> None:
        """Raises ValueError."""
        num_tokens, num_scored = len(step.tokens), len(step.scored_rows)
        num_outputs = max(len(step.output_rows), len(step.hidden_rows))
        if num_tokens > self.max_tokens or num_outputs > self.max_outputs or num_scored > self.max_scored:
            raise ValueError(
                f"the step has {num_tokens} tokens, {num_outputs} outputs and {num_scored} scored rows; the executor's "
                f"limits are {self.max_tokens}, {self.max_outputs} and {self.max_scored}"
            )

    def wait(self) -> list[StepOutput]:
        """The outputs of the submitted step. Raises ValueError if none was submitted, DeviceError, DeviceLost."""
        if self._running is None:
            raise ValueError("no step was submitted")
        plan, step = self._running
        self._running = None
        plan.wait()
        done = time.perf_counter()
        outputs = step_outputs(
            step,
            [view.buffer.array(view.dtype, view.shape) for view in plan.results],
            lambda row: self._logits(plan, plan.graph.logits, row),
            lambda row: self._logits(plan, plan.graph.scored_logits, row),
        )
        self.phases += [("wait", self.phases[-1][2], done), ("read", done, time.perf_counter())]
        return outputs

    def read(self, name: str) -> np.ndarray:
        """An intermediate of the last step, such as "blk.3.attn_norm", with one row per token slot.

        Raises KeyError, which lists the known names; ValueError without `keep` (a step reuses memory) or before the
        first step.
        """
        check_kept(self.keep, self._last is not None)
        assert self._last is not None
        found: dict[str, TensorView] = {}
        for value, view in self._last.views.items():
            if value.base.kind is Kind.ACTIVATION:
                found.setdefault(value.name, view)  # a value comes before the views of it
        if name not in found:
            raise KeyError(f"{name}; there are: {', '.join(found)}")
        view = found[name]
        whole = self.device.download(view.buffer, view.dtype, (view.shape[0], view.stride))
        return whole[:, view.offset : view.offset + view.row_elements].reshape(view.shape)

    def timings(self) -> list[tuple[Dispatch, float]]:
        """Each dispatch of the last step, and its seconds by the device's clock. Raises ValueError without
        `timestamps` or before the first step.
        """
        if not self.timestamps:
            raise ValueError("dispatches are not timed without timestamps=True")
        if self._last is None:
            raise ValueError("there are no timings yet: run a step first")
        return [pair for program in self._last.programs for pair in zip(program.dispatches, program.timings())]

    def step_shape(self, step: StepInputs) -> StepShape:
        """The shape of the recorded step that `step` runs as."""
        num_tokens = bucket(len(step.tokens), self.max_tokens)
        decode = len(set(step.sequences.tolist())) == len(step.sequences)
        splits = (
            attention.splits(self.device, num_tokens, self.cache.layout.num_kv_heads, int(step.positions.max()))
            if decode
            else 1
        )
        longest = attention.counted_longest(1 + int(max(step.positions.max(), step.limits.max(initial=0))))
        precision = self.precision
        # A sequence that decodes must get the same bits whatever else is in the step.
        if precision != "float32" and (num_tokens < ROUNDED_TOKENS or 1 in np.bincount(step.sequences)):
            precision = "float32"
        return StepShape(
            num_tokens,
            _row_bucket(step.output_rows, self.max_outputs),
            decode,
            splits,
            precision,
            _row_bucket(step.scored_rows, self.max_scored),
            step.with_candidates,
            _row_bucket(step.hidden_rows, self.max_outputs),
            _row_bucket(step.embedded_rows, self.max_tokens),
            len(step.rope_positions) > 0,
            len(step.limits) > 0,
            longest if longest > attention.LEAST_LONGEST else 0,
        )

    def plan(self, shape: StepShape) -> RecordedStep:
        """The recorded step of this shape."""
        if shape not in self._plans:
            graph = build(self.model, CacheValues(self.cache), shape, self.table_shape, self.keep)
            self._make(shape, graph, measure=self.tuned_at <= 1)
        return self._plans[shape]

    def _plan_to_run(self, shape: StepShape) -> RecordedStep:
        plan = self.plan(shape)
        plan.num_runs += 1
        if not plan.is_tuned and plan.num_runs >= self.tuned_at:
            plan = self._make(shape, plan.graph, measure=True)
        return plan

    def _make(self, shape: StepShape, graph: Graph, measure: bool) -> RecordedStep:
        self._plans[shape] = self._record(graph, measure)
        return self._plans[shape]

    def _record(self, graph: Graph, measure: bool) -> RecordedStep:
        """measure: measure kernels that were not measured yet; otherwise choose them by rule."""
        views = self._place(graph)
        dispatches: list[Dispatch] = []
        is_tuned = True
        for node in graph.nodes:
            inputs = [views.input(value) for value in node.inputs]
            outputs = [views.of(value) for value in node.outputs]
            chosen = self._tuning.fastest(node.op, inputs, outputs, node.attrs, measure)
            if chosen is None:
                chosen = self._tuning.likely(node.op, inputs, node.attrs)
                is_tuned = False
            dispatches += node.op.record(self.device, inputs, outputs, **node.attrs, **chosen)
        made = [views.found[value] for value in graph.results]
        results = [self._on_host(view) for view in made]
        copies = [] if self.device.is_unified else [(view.buffer, result.buffer) for view, result in zip(made, results)]
        recording = Recording(self.device, copies, self.timestamps, self.skip_barrier)
        return RecordedStep(graph, views.found, results, submissions(dispatches), recording, is_tuned)

    def _on_host(self, view: TensorView) -> TensorView:
        """Where a result of the step is read."""
        assert self._readback is not None
        return replace(view, buffer=Buffer(self._readback, view.buffer.offset, view.buffer.num_bytes))

    def _place(self, graph: Graph) -> Views:
        """Make room for the activations and results of `graph`."""
        arena = plan_arena(graph, self.keep)
        self._activations = self._at_least(self._activations, arena.num_bytes, "device")
        result_offsets: dict[Value, int] = {}
        result_bytes = 0
        for value in graph.results:
            result_offsets[value] = result_bytes
            result_bytes += storage_bytes(value)
        if result_bytes and self.device.is_unified:
            self._results = self._readback = self._at_least(self._results, result_bytes, "readback")
        elif result_bytes:
            self._results = self._at_least(self._results, result_bytes, "device")
            self._readback = self._at_least(self._readback, result_bytes, "readback")
        step_values = [*graph.step.values(), *graph.page_tables.values()]
        step_buffers = {value: self._step_buffers[value.name] for value in step_values}
        return Views(self._activations, arena, self._results, result_offsets, step_buffers)

    def _at_least(self, memory: "_native.Memory | None", num_bytes: int, kind: str) -> "_native.Memory":
        """`memory` if it is large enough, else new memory. Plans that were recorded with the old one keep it."""
        if memory is not None and memory.size >= num_bytes:
            return memory
        return self.device.memory(max(num_bytes, ALIGNMENT), kind)

    def _make_step_buffers(self) -> dict[str, Buffer]:
        table_size = self.table_shape[0] * self.table_shape[1]
        tables = {f"page_table.{group}": table_size for group in range(len(self.cache.layout.groups))}
        sizes = {name: -(-length * 4 // ALIGNMENT) * ALIGNMENT for name, length in (tables | self._lengths).items()}
        memory = self.device.memory(sum(sizes.values()), "step")
        buffers, offset = {}, 0
        for name, size in sizes.items():
            buffers[name] = Buffer(memory, offset, size)
            offset += size
        return buffers

    def _fill(self, name: str, values: np.ndarray, unused: int) -> None:
        array = self._step_buffers[name].array(np.int32, (self._lengths[name],))
        array[: values.size] = values.reshape(-1)
        array[values.size :] = unused

    def _write_table(self, group: int, name: str, table: PageTable) -> None:
        """Copy the rows of a page table that have changed since the last step."""
        rows = self._step_buffers[name].array(np.int32, self.table_shape)
        written, versions = self._written.get(group, (None, []))
        if written is not table:
            rows[:] = table.rows
        elif versions != table.versions:
            for index, (old, new) in enumerate(zip(versions, table.versions)):
                if old != new:
                    rows[index] = table.rows[index]
        else:
            return
        self._written[group] = table, table.versions.copy()

    def _logits(self, plan: RecordedStep, logits: Value | None, row: int) -> np.ndarray:
        assert logits is not None
        view = plan.views[logits]
        part = view.buffer.slice(row * view.stride * 4, view.shape[1] * 4)
        return self.device.download(part, np.float32, (view.shape[1],))


def _row_bucket(rows: np.ndarray, most: int) -> int:
    return bucket(len(rows), most) if len(rows) else 0


def _precision(device: Device) -> str:
    """VKBACKEND_PREFILL; float32 if the device has no such matrix products, or with VKBACKEND_DETERMINISTIC."""
    wanted = "float32" if settings.get("VKBACKEND_DETERMINISTIC") else settings.get("VKBACKEND_PREFILL")
    missing = [feature for feature in matmul.requires(precision=wanted) if not device.supports(feature)]
    if missing:
        log.warning(
            "VKBACKEND_PREFILL=%s: %s lacks %s; prompts are computed in float32",
            wanted,
            device.info.name,
            ", ".join(missing),
        )
        return "float32"
    return wanted
