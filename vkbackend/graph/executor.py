"""Runs a model's steps on a Vulkan device: recorded once per size, replayed from then on.

In: a model whose weights are placed on the device, its cache, `StepInputs`. Out: `RowOutput`s. A step of n tokens
runs in the plan of the next bucket (1, 2, 4, ... token slots); unused slots have position -1. A plan is made once
per bucket: the model is called on symbolic values, activations get places, dispatches are recorded, and then only
the step buffer changes.
"""

import logging
import time
from dataclasses import dataclass, replace

import numpy as np

from .. import settings
from ..device import host_memory
from ..device.buffers import Buffer
from ..device.dispatch import Dispatch, Program
from ..errors import DeviceError
from ..ops import attention, matmul
from ..ops.op import TensorView
from ..ops.packed import PackedMatrix
from ..ops.tuning import Tuning
from .builder import Graph, Kind, Value
from .cache import CacheStorage
from .forward import CacheValues, build
from .planner import ALIGNMENT, plan_arena, storage_bytes
from .step import StepInputs, StepShape, bucket, check_kept, step_outputs

# A submission is cut where it would take longer than about 100 ms on a small integrated GPU: drivers reset the device
# on long ones.
SUBMISSION_FLOPS = 20e9
TUNED_AT = 2  # with the first run of a shape, somebody waits for a first token
ROUNDED_TOKENS = 16  # steps of so many take VKBACKEND_PREFILL's precision


log = logging.getLogger(__name__)


@dataclass
class Plan:
    """One recorded step shape. results: the graph's results where the host reads them. is_tuned: nothing is left to
    be measured. num_runs: how often it was run.
    """

    graph: Graph
    programs: list[Program]
    views: dict[Value, TensorView]
    results: list[TensorView]
    is_tuned: bool
    num_runs: int = 0

    @property
    def dispatches(self) -> list[Dispatch]:
        return [dispatch for program in self.programs for dispatch in program.dispatches]


class DeviceExecutor:
    """run(step) -> rows, or submit(step), later wait() -> rows; read(name) -> an intermediate of the last step;
    timings() -> seconds of each dispatch; phases: (name, begin, end) of what the host did in the last step, by
    time.perf_counter.

    max_tokens, max_outputs, max_scored: the largest step. keep: give every intermediate memory of its own, so that
    `read` finds it. tuned_at: the run of a step shape before which its kernels are measured, where they never were.
    timestamps: measure each dispatch. skip_barrier: leave out one derived barrier of single-submission plans (to
    show it is needed).
    """

    def __init__(
        self,
        device,
        model,
        cache: CacheStorage,
        *,
        num_sequences: int,
        pages_per_sequence: int,
        max_tokens: int = 128,
        max_outputs: int = 32,
        max_scored: int = 32,
        keep: bool = False,
        timestamps: bool = False,
        skip_barrier: int | None = None,
        tuned_at: int = TUNED_AT,
    ):
        self.device, self.model, self.cache = device, model, cache
        self.max_tokens, self.max_outputs, self.max_scored = max_tokens, max_outputs, max_scored
        self.table_shape = (num_sequences, pages_per_sequence)
        self._lengths = {
            "tokens": max_tokens,
            "positions": max_tokens,
            "sequences": max_tokens,
            "output_rows": max_outputs,
            "scored_rows": max_scored,
            "targets": max_scored,
            "hidden_rows": max_outputs,
        }  # of the step buffer's lists
        self.keep, self.timestamps, self.skip_barrier = keep, timestamps, skip_barrier
        self._plans: dict[StepShape, Plan] = {}
        self.tuned_at = tuned_at
        self.precision = _precision(device)
        self._tuning = Tuning(device, settings.get("VKBACKEND_AUTOTUNE"))
        self._activations = self._results = self._readback = None
        self._last: Plan | None = None
        self._is_running = False  # submitted and not waited for
        self._step: StepInputs | None = None
        self.phases: list[tuple[str, float, float]] = []
        self._step_buffers = self._make_step_buffers()

    def run(self, step: StepInputs, inputs: dict[str, np.ndarray] | None = None) -> list:
        """inputs: arrays (n, ...) for what the graph declares as its inputs beside the step's arrays. -> what
        `step.step_outputs` says.

        Raises ValueError where the step is larger than the executor was made for, DeviceError, DeviceLost.
        """
        self.submit(step, inputs)
        return self.wait()

    def submit(self, step: StepInputs, inputs: dict[str, np.ndarray] | None = None) -> None:
        """Begin a step. Until `wait` has returned, nothing else may be asked of the executor or its device."""
        if self._is_running:
            raise ValueError("a step is running; wait for it first")
        begin = time.perf_counter()
        count, wanted, scored = (
            len(step.tokens),
            max(len(step.output_rows), len(step.hidden_rows)),
            len(step.scored_rows),
        )
        if count > self.max_tokens or wanted > self.max_outputs or scored > self.max_scored:
            raise ValueError(
                f"a step of {count} tokens, {wanted} outputs and {scored} scored rows; made for {self.max_tokens}, "
                f"{self.max_outputs} "
                f"and {self.max_scored}"
            )
        plan = self._plan_to_run(self.step_shape(step))
        for name, value in plan.graph.step.items():
            if name != "page_table" and value.shape[0]:
                self._fill(name, getattr(step, name), 0 if name in ("tokens", "sequences") else -1)
        self._step_buffers["page_table"].array(np.int32, self.table_shape)[:] = step.page_table
        for name, array in (inputs or {}).items():
            self.device.upload(plan.views[plan.graph.inputs[name]].buffer, array)
        self._last, self._step = plan, step
        filled = time.perf_counter()
        self._submit(plan.programs)
        self.phases = [("fill", begin, filled), ("submit", filled, time.perf_counter())]

    def _submit(self, programs: list[Program]) -> None:
        for at, program in enumerate(programs):
            try:
                program.submit()
            except DeviceError:
                for before in programs[:at]:  # they use what the next step writes
                    before.wait()
                raise
        self._is_running = True

    def wait(self) -> list:
        """The outputs of the step that was submitted. Raises DeviceError, DeviceLost, ValueError where none was."""
        if not self._is_running:
            raise ValueError("no step was submitted")
        self._is_running = False
        for program in self._last.programs:
            program.wait()
        done = time.perf_counter()
        plan, results = self._last, [view.buffer.array(view.dtype, view.shape) for view in self._last.results]
        outputs = step_outputs(
            self._step,
            results,
            lambda row: self._logits(plan, plan.graph.logits, row),
            lambda row: self._logits(plan, plan.graph.scored_logits, row),
        )
        self.phases += [("wait", self.phases[-1][2], done), ("read", done, time.perf_counter())]
        return outputs

    def read(self, name: str) -> np.ndarray:
        """An intermediate as the last step left it, such as "blk.3.attn_norm", with a row per token slot. Raises
        KeyError with the names that there are, ValueError without `keep` (memory is used again within a step) or
        before one.
        """
        check_kept(self.keep, self._last is not None)
        found = {}
        for value, view in self._last.views.items():
            if value.base.kind is Kind.ACTIVATION:
                found.setdefault(value.name, view)  # the value itself comes before what others see of it
        if name not in found:
            raise KeyError(f"{name}; there are: {', '.join(found)}")
        view = found[name]
        whole = self.device.download(view.buffer, view.dtype, (view.shape[0], view.stride))
        return whole[:, view.offset : view.offset + view.row_elements].reshape(view.shape)

    def timings(self) -> list[tuple[Dispatch, float]]:
        """Each dispatch of the last step with its seconds on the device's clock. Raises ValueError without
        `timestamps` or before a step.
        """
        if not self.timestamps:
            raise ValueError("made without timestamps=True: nothing was measured")
        if self._last is None:
            raise ValueError("nothing was measured yet: run a step first")
        return [pair for program in self._last.programs for pair in zip(program.dispatches, program.timings())]

    def step_shape(self, step: StepInputs) -> StepShape:
        """The shape of the recorded step that `step` runs as."""
        num_tokens = bucket(len(step.tokens), self.max_tokens)
        decode = len(set(step.sequences.tolist())) == len(step.sequences)
        splits = (
            attention.splits(self.device, num_tokens, self.cache.num_kv_heads, int(step.positions.max()))
            if decode
            else 1
        )
        precision = self.precision
        # Whoever decodes gets the same bits whoever runs beside it.
        if precision != "float32" and (num_tokens < ROUNDED_TOKENS or 1 in np.bincount(step.sequences)):
            precision = "float32"
        num_outputs, num_scored, num_hidden = (
            bucket(len(rows), most) if len(rows) else 0
            for rows, most in (
                (step.output_rows, self.max_outputs),
                (step.scored_rows, self.max_scored),
                (step.hidden_rows, self.max_outputs),
            )
        )
        return StepShape(
            num_tokens, num_outputs, decode, splits, precision, num_scored, step.with_candidates, num_hidden
        )

    def plan(self, shape: StepShape) -> Plan:
        """The recorded step of this shape."""
        if shape not in self._plans:
            graph = build(self.model, CacheValues(self.cache), shape, *self.table_shape, self.keep)
            self._make(shape, graph, measure=self.tuned_at <= 1)
        return self._plans[shape]

    def _plan_to_run(self, shape: StepShape) -> Plan:
        plan = self.plan(shape)
        plan.num_runs += 1
        if not plan.is_tuned and plan.num_runs >= self.tuned_at:
            plan = self._make(shape, plan.graph, measure=True)
        return plan

    def _make(self, shape: StepShape, graph: Graph, measure: bool) -> Plan:
        plan = self._plans[shape] = self._record(graph, measure)
        host_memory.trim()
        return plan

    def _record(self, graph: Graph, measure: bool) -> Plan:
        """measure: kernels that were not yet, else they are taken by rule."""
        places = plan_arena(graph, self.keep)
        self._activations = self._at_least(self._activations, places.num_bytes, "device")
        offsets, result_bytes = {}, 0
        for value in graph.results:
            offsets[value] = result_bytes
            result_bytes += storage_bytes(value)
        if result_bytes:
            self._results = self._at_least(
                self._results, result_bytes, "readback" if self.device.is_unified else "device"
            )
            self._readback = (
                self._results if self.device.is_unified else self._at_least(self._readback, result_bytes, "readback")
            )

        views: dict[Value, TensorView] = {}
        steps = {value: name for name, value in graph.step.items()}

        def view(value):
            if value is None or isinstance(value.constant, PackedMatrix):
                return value and value.constant
            if value not in views:
                base = value.base
                if base.kind is Kind.ACTIVATION:
                    buffer = Buffer(self._activations, places.offsets[base], storage_bytes(base))
                elif base.kind is Kind.RESULT:
                    buffer = Buffer(self._results, offsets[base], storage_bytes(base))
                elif base.kind is Kind.STEP:
                    buffer = self._step_buffers[steps[base]]
                else:
                    buffer = value.constant.buffer
                views[value] = TensorView(buffer, value.shape, value.dtype, value.offset, value.row_stride)
            return views[value]

        dispatches, is_tuned = [], True
        for node in graph.nodes:
            inputs, outputs = [view(value) for value in node.inputs], [view(value) for value in node.outputs]
            chosen = self._tuning.fastest(node.op, inputs, outputs, node.attrs, measure)
            if chosen is None:
                chosen, is_tuned = self._tuning.likely(node.op, inputs, node.attrs), False
            dispatches += node.op.record(self.device, inputs, outputs, **node.attrs, **chosen)
        made = [views[value] for value in graph.results]
        results = [
            replace(view, buffer=Buffer(self._readback, view.buffer.offset, view.buffer.num_bytes)) for view in made
        ]
        copies = [] if self.device.is_unified else [(view.buffer, result.buffer) for view, result in zip(made, results)]
        return Plan(graph, self._programs(dispatches, copies), views, results, is_tuned)

    def _programs(self, dispatches, copies) -> list[Program]:
        parts, flops = [[]], 0
        for dispatch in dispatches:
            if flops and flops + dispatch.flops > SUBMISSION_FLOPS:
                parts.append([])
                flops = 0
            parts[-1].append(dispatch)
            flops += dispatch.flops
        return [
            Program(self.device, part, self.timestamps, self.skip_barrier, copies if part is parts[-1] else ())
            for part in parts
        ]

    def _at_least(self, memory, num_bytes, kind):
        """`memory` where it is large enough, else new memory; plans that were recorded keep what they have."""
        return (
            memory
            if memory is not None and memory.size >= num_bytes
            else self.device.memory(max(num_bytes, ALIGNMENT), kind)
        )

    def _make_step_buffers(self) -> dict[str, Buffer]:
        shapes = {"page_table": self.table_shape, **{name: (size,) for name, size in self._lengths.items()}}
        sizes = {name: -(-int(np.prod(shape)) * 4 // ALIGNMENT) * ALIGNMENT for name, shape in shapes.items()}
        memory = self.device.memory(sum(sizes.values()), "step")
        buffers, offset = {}, 0
        for name, size in sizes.items():
            buffers[name] = Buffer(memory, offset, size)
            offset += size
        return buffers

    def _fill(self, name, values, unused):
        array = self._step_buffers[name].array(np.int32, (self._lengths[name],))
        array[: len(values)] = values
        array[len(values) :] = unused

    def _logits(self, plan: Plan, logits: Value, row: int) -> np.ndarray:
        view = plan.views[logits]
        part = view.buffer.slice(row * view.stride * 4, view.shape[1] * 4)
        return self.device.download(part, np.float32, (view.shape[1],))


def _precision(device) -> str:
    """VKBACKEND_PREFILL, or float32 where this device has no such products or VKBACKEND_DETERMINISTIC asks for
    decode's.
    """
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
