"""Runs a model's steps on the numpy twins: the CPU path, and the oracle of the device path.

In: a model whose weights were not placed, a `CacheStorage` of numpy arrays, `StepInputs`. Out: `RowOutput`s.
"""

from collections import OrderedDict

import numpy as np

from ..ops.packed import PackedMatrix
from .builder import Graph, Kind, Value
from .cache import CacheStorage
from .forward import CacheValues, build
from .step import RowOutput, StepInputs, StepShape, check_kept, row_output

KEPT_GRAPHS = 16


class NumpyExecutor:
    """`run(step)`; afterwards `read(name)` gives any intermediate, where it was made with `keep`."""

    def __init__(self, model, cache: CacheStorage, keep: bool = False):
        self.model, self.cache, self.keep = model, cache, keep
        self._graphs: OrderedDict[tuple, Graph] = OrderedDict()
        self._kept: dict[str, np.ndarray] = {}
        self._submitted: StepInputs | None = None

    def submit(self, step: StepInputs) -> None:
        """Take a step that `wait` runs: there is no device that could work meanwhile."""
        self._submitted = step

    def wait(self) -> list[RowOutput]:
        return self.run(self._submitted)

    def run(self, step: StepInputs, inputs: dict[str, np.ndarray] | None = None) -> list[RowOutput]:
        """inputs: arrays for what the graph declares as its inputs beside the step's arrays."""
        graph = self._graph(len(step.tokens), len(step.output_rows), step.page_table.shape)
        arrays = {value: getattr(step, name) for name, value in graph.step.items()}
        arrays.update((graph.inputs[name], array) for name, array in (inputs or {}).items())
        self._kept = {}
        for node in graph.nodes:
            inputs = [None if value is None else self._view(arrays, value) for value in node.inputs]
            results = node.op.reference(*inputs, **node.attrs)
            for value, result in zip(node.outputs, results if isinstance(results, tuple) else (results,)):
                view = self._view(arrays, value)
                if view is not result:
                    view[...] = result
                if self.keep and value.base.kind is Kind.ACTIVATION:
                    self._kept.setdefault(value.name, view)
        if not len(step.output_rows):
            return []
        stats, counts, ids, values = (arrays[value] for value in graph.results)
        logits = self._view(arrays, graph.logits)
        return [row_output(stats[m], counts[m], ids[m], values[m], lambda m=m: logits[m].copy()) for m in range(len(step.output_rows))]

    def read(self, name: str) -> np.ndarray:
        """An intermediate as the last step left it, such as "blk.3.attn_norm"; what is changed in place (rope on q and k) is read changed.
        Raises KeyError with the names that there are, ValueError without `keep` or before a step."""
        check_kept(self.keep, bool(self._kept))
        if name not in self._kept:
            raise KeyError(f"{name}; there are: {', '.join(self._kept)}")
        return self._kept[name].copy()

    def timings(self) -> list:
        """Raises ValueError: `DeviceExecutor` measures dispatches, and there are none here."""
        raise ValueError("the numpy twins have no dispatches to measure: open a device, with timestamps=True")

    def _graph(self, num_tokens, num_outputs, table_shape) -> Graph:
        key = (num_tokens, num_outputs, table_shape)
        if key not in self._graphs:
            self._graphs[key] = build(self.model, CacheValues(self.cache), StepShape(num_tokens, num_outputs), *table_shape, self.keep)
            if len(self._graphs) > KEPT_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    @staticmethod
    def _view(arrays: dict[Value, np.ndarray], value: Value):
        if value.base.kind is Kind.WEIGHT:
            return value.constant if isinstance(value.constant, PackedMatrix) else value.constant.values
        if value.base.kind is Kind.STATE:
            return value.constant.array
        base = value.base
        if base not in arrays:
            shape = base.shape if base.kind is Kind.RESULT else (base.shape[0], base.row_stride)
            arrays[base] = np.zeros(shape, base.dtype)
        array = arrays[base]
        if value.base.kind in (Kind.RESULT, Kind.STEP):
            return array
        columns = int(np.prod(value.shape[1:]))
        return array[:, value.offset:value.offset + columns].reshape(value.shape)
