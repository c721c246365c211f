"""Runs a model whose layers lie in several places: some on the CPU's twins, some on one device, some on another.

In: parts, each a model of some layers with what runs them, in the order in which a token passes them; `StepInputs`.
Out: `RowOutput`s, as from the executor of one place. Between parts a step's hidden states (tokens, width) cross by
host memory. All parts but the last run in `submit`, so that only the last one overlaps with the host's other work.
Each part keeps the cache of its own layers; pages are the same ones everywhere.
"""

from dataclasses import dataclass, fields

import numpy as np

from ..device.buffers import Arena
from .builder import Graph, Kind, Value
from .cache import CacheStorage
from .executor import DeviceExecutor
from .forward import CacheValues
from .numpy_executor import NumpyExecutor
from .step import RowOutput, StepInputs

HIDDEN = "hidden"
NO_ROWS = np.zeros(0, np.int32)
ROWS = [
    field.name for field in fields(StepInputs) if field.name.endswith("_rows")
]  # of a step: what is wanted of the output


@dataclass
class PartModel:
    """Some layers of a model, as executors call one. span: which (`models.placement.Span`); the states that come in
    are an input of its graph where it does not begin with the embedding, and those that go out are its result where
    it does not end with the logits.
    """

    layers: object
    span: object
    width: int

    def __call__(self, graph: Graph, caches: CacheValues) -> Value:
        span = self.span
        x = self.layers.embed(graph) if span.has_input else graph.input(HIDDEN, (graph.num_tokens, self.width))
        own = _OwnCaches(caches, span.first)
        for number in span.blocks:
            with graph.scope(f"blk.{number}"):
                x = self.layers.blocks[number](x, own)
        if not span.has_output:
            out = graph.new(HIDDEN, x.shape, kind=Kind.RESULT)
            graph.call("scale", [x], [out], factor=1.0)
            graph.results = [out]
        return x

    def logits(self, x: Value) -> Value:
        return self.layers.logits(x)

    @property
    def output_norm(self):
        return self.layers.output_norm


@dataclass
class _OwnCaches:
    """A part's caches, asked for by the numbers that layers have in the whole model."""

    caches: CacheValues
    first: int

    def cache(self, graph: Graph, layer: int):
        return self.caches.cache(graph, layer - self.first)


class _HandingOn(DeviceExecutor):
    def result(self) -> np.ndarray:
        """What the last step's graph made for others than the sampler."""
        view = self._last.results[0]
        return view.buffer.array(view.dtype, view.shape).copy()


class _CpuPart:
    def __init__(self, model: PartModel, cache: CacheStorage, keep: bool):
        self.model, self.cache = model, cache
        self.executor = NumpyExecutor(model, cache, keep)
        self._begun = None

    def begin(self, step: StepInputs, inputs) -> None:
        self._begun = step, inputs

    def finish(self) -> list[RowOutput]:
        return self.executor.run(*self._begun)

    def handed_on(self, count: int) -> np.ndarray:
        return self.executor.results[0][:count]


class _DevicePart:
    def __init__(self, device, model: PartModel, cache: CacheStorage, sizes: dict):
        self.model, self.cache = model, cache
        self.executor = _HandingOn(device, model, cache, **sizes)

    def begin(self, step: StepInputs, inputs) -> None:
        self.executor.submit(step, inputs)

    def finish(self) -> list[RowOutput]:
        return self.executor.wait()

    def handed_on(self, count: int) -> np.ndarray:
        return self.executor.result()[:count]


class SplitExecutor:
    """run(step) -> rows, or its halves submit(step) and wait().

    parts: (device or None, a model's layers, their span), see `models.LoadedPart`. config: the model's. num_pages,
    page_size, kind: of the cache. sizes: `DeviceExecutor`'s num_sequences, pages_per_sequence, max_tokens,
    max_outputs, keep, timestamps, tuned_at.
    """

    def __init__(self, parts, config, *, num_pages: int, page_size: int, kind: str, **sizes):
        self.parts: list[_CpuPart | _DevicePart] = []
        for part in parts:
            model, span = PartModel(part.layers, part.span, config.width), part.span
            arena = None if part.device is None else Arena(part.device, "device")
            cache = CacheStorage(
                len(span.blocks), num_pages, page_size, config.num_kv_heads, config.head_dim, kind, arena
            )
            self.parts.append(
                _CpuPart(model, cache, sizes.get("keep", False))
                if part.device is None
                else _DevicePart(part.device, model, cache, sizes)
            )
        self._last: _CpuPart | _DevicePart | None = None

    @property
    def num_bytes(self) -> int:
        """Of all parts' caches."""
        return sum(part.cache.num_bytes for part in self.parts)

    def run(self, step: StepInputs) -> list[RowOutput]:
        """Raises what the parts' executors raise."""
        self.submit(step)
        return self.wait()

    def submit(self, step: StepInputs) -> None:
        """Run the step through all parts but the last one, and begin that."""
        # Where nothing is wanted of the output, a part of the output alone has nothing to do.
        wants = any(len(getattr(step, name)) for name in ROWS)
        parts = (
            self.parts
            if wants
            else [part for part in self.parts if part.model.span.blocks or part.model.span.has_input]
        )
        inner = StepInputs(step.tokens, step.positions, step.sequences, step.page_table, NO_ROWS)
        inputs = None
        for part in parts[:-1]:
            part.begin(inner, inputs)
            part.finish()
            inputs = {HIDDEN: part.handed_on(len(step.tokens))}
        self._last = parts[-1]
        self._last.begin(step, inputs)

    def wait(self) -> list[RowOutput]:
        return self._last.finish()

    def read(self, name: str) -> np.ndarray:
        """An intermediate of the last step, as the executor of its part gives it. Raises KeyError, ValueError."""
        missing = None
        for part in self.parts:
            try:
                return part.executor.read(name)
            except KeyError as error:
                missing = error
        raise missing

    def timings(self) -> list:
        """Of the dispatches on devices. Raises ValueError without `timestamps`."""
        return [timing for part in self.parts if isinstance(part, _DevicePart) for timing in part.executor.timings()]
