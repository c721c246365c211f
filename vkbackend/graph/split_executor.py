"""Runs a model whose layers are in several places: the CPU and one or more devices.

In: parts (`parts.LoadedPart`) in the order of the layers, and `StepInputs`. Out: as from the executor of one place.
Between parts, the hidden states (tokens, width) of a step go through host memory. All parts but the last run in
`submit`, so only the last one overlaps with other work of the host. Each part has the cache of its own layers; all
use the same page tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..device.buffers import Arena
from ..device.context import Device
from ..device.dispatch import Dispatch
from .cache import CacheStorage
from .cache_layout import CacheLayout
from .executor import DeviceExecutor
from .host_executor import HostExecutor, HostPath
from .model import Config
from .parts import HIDDEN, LoadedPart, PartModel
from .step import NO_EMBEDDINGS, NO_ROWS, StepInputs, StepOutput

ROWS = ("output_rows", "scored_rows", "hidden_rows")  # fields of a step that ask for outputs

Inputs = dict[str, np.ndarray] | None


class _HandingOn(DeviceExecutor):
    def result(self) -> np.ndarray:
        """The hidden states of the last step."""
        assert self._last is not None
        view = self._last.results[0]
        return view.buffer.array(view.dtype, view.shape).copy()


class _CpuPart:
    def __init__(self, model: PartModel, cache: CacheStorage, executor: HostExecutor):
        self.model = model
        self.cache = cache
        self.executor = executor

    def begin(self, step: StepInputs, inputs: Inputs) -> None:
        self.executor.submit(step, inputs)

    def finish(self) -> list[StepOutput]:
        return self.executor.wait()

    def handed_on(self, count: int) -> np.ndarray:
        """The hidden states of the step's `count` tokens."""
        return self.executor.results[0][:count]


class _DevicePart:
    def __init__(self, device: Device, model: PartModel, cache: CacheStorage, sizes: Mapping[str, Any]):
        self.model = model
        self.cache = cache
        self.executor = _HandingOn(device, model, cache, **sizes)

    def begin(self, step: StepInputs, inputs: Inputs) -> None:
        self.executor.submit(step, inputs)

    def finish(self) -> list[StepOutput]:
        return self.executor.wait()

    def handed_on(self, count: int) -> np.ndarray:
        """The hidden states of the step's `count` tokens."""
        return self.executor.result()[:count]


class SplitExecutor:
    """`run(step)` returns the step's outputs; `submit(step)` and `wait()` are its two halves.

    config: the model's. layout: of the cache. host: for the parts on the CPU. sizes: keyword
    arguments of `DeviceExecutor`: table_shape, max_tokens, max_outputs, keep, timestamps, tuned_at.
    """

    def __init__(
        self,
        parts: Sequence[LoadedPart],
        config: Config,
        layout: CacheLayout,
        host: HostPath,
        **sizes: Any,
    ):
        self.parts: list[_CpuPart | _DevicePart] = []
        for part in parts:
            model = PartModel(part.layers, part.span, config.width)
            arena = None if part.device is None else Arena(part.device, "device")
            cache = CacheStorage(layout, part.span.blocks, arena, host.reads_halves)
            if part.device is None:
                executor = host.make_executor(model, cache, sizes.get("keep", False))
                self.parts.append(_CpuPart(model, cache, executor))
            else:
                self.parts.append(_DevicePart(part.device, model, cache, sizes))
        self._last: _CpuPart | _DevicePart | None = None

    @property
    def num_bytes(self) -> int:
        """Size of all parts' caches."""
        return sum(part.cache.num_bytes for part in self.parts)

    def run(self, step: StepInputs) -> list[StepOutput]:
        """Raises what the parts' executors raise."""
        self.submit(step)
        return self.wait()

    def submit(self, step: StepInputs) -> None:
        """Run the step through all parts but the last, and begin that one."""
        parts = self.parts
        if not any(len(getattr(step, name)) for name in ROWS):  # no outputs: skip a part that only computes them
            parts = [part for part in parts if part.model.span.blocks or part.model.span.has_input]
        later = step  # for the parts after the first, which places the embeddings
        if len(step.embedded_rows):
            later = replace(step, embedded_rows=NO_ROWS, embeddings=NO_EMBEDDINGS)
        inputs: Inputs = None
        for part in parts[:-1]:
            part.begin(_without_outputs(step if part is parts[0] else later), inputs)
            part.finish()
            inputs = {HIDDEN: part.handed_on(len(step.tokens))}
        self._last = parts[-1]
        self._last.begin(step if self._last is parts[0] else later, inputs)

    def wait(self) -> list[StepOutput]:
        """The outputs of the submitted step. Raises ValueError if none was submitted, and what the last part raises."""
        if self._last is None:
            raise ValueError("no step was submitted")
        return self._last.finish()

    def read(self, name: str) -> np.ndarray:
        """An intermediate of the last step, as the executor of its part gives it. Raises KeyError, ValueError."""
        missing = KeyError(name)
        for part in self.parts:
            try:
                return part.executor.read(name)
            except KeyError as error:
                missing = error
        raise missing

    def timings(self) -> list[tuple[Dispatch, float]]:
        """Each dispatch on a device, and its seconds. Raises ValueError without `timestamps`."""
        return [timing for part in self.parts if isinstance(part, _DevicePart) for timing in part.executor.timings()]


def _without_outputs(step: StepInputs) -> StepInputs:
    return replace(
        step, output_rows=NO_ROWS, scored_rows=NO_ROWS, targets=NO_ROWS, hidden_rows=NO_ROWS, with_candidates=False
    )
