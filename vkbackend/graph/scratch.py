"""Bytes that executors need in addition to weights and caches, counted before anything large is allocated.

In: a model and the sizes of the largest steps. Out: bytes, from the graphs of those steps: activations share memory as
`planner` places them.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from ..ops import attention
from .builder import Graph
from .cache import CacheStorage
from .cache_layout import CacheLayout
from .forward import CacheValues, build
from .model import Config, LayeredModel, Model
from .parts import LayerSpan, PartModel
from .planner import plan_arena, storage_bytes
from .step import StepShape

STEP_ARRAYS = 16  # int32 for each token, in the step buffer; more than there are


@dataclass(frozen=True)
class StepLimits:
    """Sizes of the largest step: (S, P) of the page tables, tokens, rows of each kind."""

    table_shape: tuple[int, int]
    max_tokens: int
    max_outputs: int
    max_scored: int

    @property
    def num_sequences(self) -> int:
        """Most sequences in a step."""
        return self.table_shape[0]


def largest_graphs(model: Model, caches: CacheValues, limits: StepLimits) -> Iterator[Graph]:
    """The graphs of the largest prompt step and of the largest decode step. Each is built when it is asked for."""
    outputs = StepShape(limits.max_tokens, limits.max_outputs, num_hidden=limits.num_sequences)
    scored = replace(outputs, num_scored=limits.max_scored, with_candidates=True)
    yield build(model, caches, scored, limits.table_shape)
    # A decode step splits long contexts over groups; the more tokens it has, the sooner they keep a device busy.
    tokens = min(limits.num_sequences, attention.ENOUGH_GROUPS)
    yield build(model, caches, replace(outputs, num_tokens=tokens, decode=True, splits=2), limits.table_shape)


def activation_bytes(model: Model, caches: CacheValues, limits: StepLimits) -> int:
    """Bytes of the arena that holds the activations of any step."""
    return max(plan_arena(graph).num_bytes for graph in largest_graphs(model, caches, limits))


def scratch_bytes(
    layers: LayeredModel,
    span: LayerSpan,
    layout: CacheLayout,
    limits: StepLimits,
    config: Config,
    *,
    on_device: bool,
    is_unified: bool = True,
    kernels: Collection[str] = (),
) -> int:
    """Bytes that the executor of the layers in `span` allocates: activations, results, and on a device the step buffer,
    on the CPU the temporaries of the numpy reference that needs most. is_unified: the host reads results where the
    device writes them. kernels: ops that the CPU runs without their reference. `layers` is the whole model.
    """
    is_whole = span.has_input and span.has_output
    model: Model = layers if is_whole else PartModel(layers, span, config.width)
    caches = CacheValues(CacheStorage(layout.limited(1), span.blocks))
    if not on_device:  # the CPU runs decode steps as other steps
        graph = next(largest_graphs(model, caches, limits))
        return plan_arena(graph).num_bytes + _result_bytes(graph) + _temporaries(graph, kernels)
    graphs = list(largest_graphs(model, caches, limits))
    results = max(_result_bytes(graph) for graph in graphs)
    sequences, pages = limits.table_shape
    step = 4 * (len(layout.groups) * sequences * pages + STEP_ARRAYS * limits.max_tokens)
    return max(plan_arena(graph).num_bytes for graph in graphs) + step + (results if is_unified else 2 * results)


def _result_bytes(graph: Graph) -> int:
    return sum(storage_bytes(value) for value in graph.results)


def _temporaries(graph: Graph, kernels: Collection[str]) -> int:
    """The most bytes that one call of a numpy reference allocates while it runs."""
    return max(
        (node.op.host_scratch(node.inputs, **node.attrs) for node in graph.nodes if node.op.name not in kernels),
        default=0,
    )
