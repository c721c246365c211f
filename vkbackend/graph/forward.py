"""Builds the graph of one forward pass from a model and the sizes of a step, the same for every executor."""

from dataclasses import dataclass

from ..ops import top_k
from . import functions as F
from .builder import Graph, Kind, Value
from .cache import CacheStorage
from .model import LayerCache, Model
from .step import CANDIDATES, StepShape


@dataclass
class CacheValues:
    """The cache of each layer as values of a graph, with the page table of the layer's group."""

    storage: CacheStorage

    @property
    def context_length(self) -> int:
        """Tokens that one sequence may have."""
        return self.storage.layout.context_length

    def cache(self, graph: Graph, layer: int) -> LayerCache:
        """Keys, values and page table of one layer."""
        keys, values = self.storage.layers[layer]
        table = graph.page_table(self.storage.layout.group_of(layer))
        return LayerCache(graph.constant(keys), graph.constant(values), table)


def build(
    model: Model,
    caches: CacheValues,
    step_shape: StepShape,
    table_shape: tuple[int, int],
    keep: bool = False,
) -> Graph:
    """The graph of a step. table_shape: (S, P) of the page tables.

    Its `results`, as `step.step_outputs` reads them: stats, counts, ids and values (see ops.top_k) of output rows;
    stats and target logits of scored rows, followed by counts, ids and values with `with_candidates`; hidden states.
    `graph.logits` and `graph.scored_logits` are (M, vocabulary).
    """
    graph = Graph(step_shape, table_shape, keep)
    hidden = model(graph, caches)
    graph.precision = "float32"  # the precision of a step never applies to logits
    states = [_hidden_states(model, hidden)] if step_shape.num_hidden else []
    scores = _scores(graph, model, hidden, step_shape.with_candidates) if step_shape.num_scored else []
    if step_shape.num_outputs:
        graph.logits = model.logits(F.rows(hidden))
        graph.results = _top_k(graph, graph.logits, Kind.RESULT)
    graph.results += scores + states
    graph.lasting = [value for value in (graph.logits, graph.scored_logits) if value is not None]
    return graph


def _top_k(graph: Graph, logits: Value, kind: Kind) -> list[Value]:
    """Stats, counts, ids and values of ops.top_k. Stats are always results, the others are of `kind`."""
    rows, vocabulary = logits.shape
    strips, stats, *candidates = top_k.output_shapes(rows, vocabulary)
    outputs = [graph.new("stats", *stats, Kind.RESULT)]
    for name, (shape, dtype) in zip(("counts", "ids", "values"), candidates):
        outputs.append(graph.new(name, shape, dtype, kind))
    graph.call("top_k", [logits], [graph.new("strips", *strips), *outputs], k=CANDIDATES)
    return outputs


def _scores(graph: Graph, model: Model, hidden: Value, with_candidates: bool) -> list[Value]:
    """Results of scored rows. Without `with_candidates` their candidates stay on the device."""
    with graph.scope("scored"):
        graph.scored_logits = logits = model.logits(F.rows(hidden, "scored_rows"))
        stats, *candidates = _top_k(graph, logits, Kind.RESULT if with_candidates else Kind.ACTIVATION)
        picked = graph.new("picked", (logits.shape[0],), kind=Kind.RESULT)
        graph.call("pick_logits", [logits, graph.step["targets"]], [picked])
    return [stats, picked, *(candidates if with_candidates else ())]


def _hidden_states(model: Model, hidden: Value) -> Value:
    """States after the last norm, which is where embedding models take their output from."""
    return model.output_norm(F.rows(hidden, "hidden_rows"), name="hidden_states", kind=Kind.RESULT)
