"""A model and a step's sizes -> the graph of one forward pass, the same for every executor."""

from dataclasses import dataclass

from ..ops import top_k
from . import functions as F
from .builder import Graph, Kind, Value
from .cache import CacheStorage
from .step import CANDIDATES, StepShape


@dataclass
class CacheValues:
    """Hands the cache of each layer to the model as values of a graph."""

    storage: CacheStorage

    def cache(self, graph: Graph, layer: int) -> tuple[Value, Value]:
        return tuple(
            graph.constant(tensor, tensor.shape, Kind.STATE, tensor.dtype) for tensor in self.storage.layers[layer]
        )


def build(
    model, caches: CacheValues, step_shape: StepShape, num_sequences: int, pages_per_sequence: int, keep: bool = False
) -> Graph:
    """`graph.results`, in this order: of output rows stats, counts, ids and values of ops.top_k; of scored rows
    stats and the targets' logits, then, with candidates, counts, ids and values; hidden states. `step.step_outputs`
    reads them. `graph.logits`, `graph.scored_logits`: (M, vocabulary).
    """
    graph = Graph(step_shape, num_sequences, pages_per_sequence, keep)
    hidden = model(graph, caches)
    graph.precision = "float32"  # logits are never rounded
    states = [_hidden_states(graph, model, hidden)] if step_shape.num_hidden else []
    scores = _scores(graph, model, hidden, step_shape.with_candidates) if step_shape.num_scored else []
    if step_shape.num_outputs:
        graph.logits = model.logits(F.rows(hidden))
        graph.results = _top_k(graph, graph.logits, Kind.RESULT)
    graph.results += scores + states
    graph.lasting = [value for value in (graph.logits, graph.scored_logits) if value is not None]
    return graph


def _top_k(graph: Graph, logits: Value, kind: Kind) -> list[Value]:
    """Stats (always results), counts, ids and values of ops.top_k."""
    shapes = top_k.output_shapes(*logits.shape)
    strips, (stats, *candidates) = (
        graph.new("strips", *shapes[0]),
        zip(("stats", "counts", "ids", "values"), shapes[1:]),
    )
    outputs = [
        graph.new(stats[0], *stats[1], Kind.RESULT),
        *(graph.new(name, shape, dtype, kind) for name, (shape, dtype) in candidates),
    ]
    graph.call("top_k", [logits], [strips, *outputs], k=CANDIDATES)
    return outputs


def _scores(graph: Graph, model, hidden: Value, with_candidates: bool) -> list[Value]:
    """What is read of rows that nobody samples from; where nobody wants their candidates, they stay on the device."""
    with graph.scope("scored"):
        graph.scored_logits = logits = model.logits(F.rows(hidden, "scored_rows"))
        stats, *candidates = _top_k(graph, logits, Kind.RESULT if with_candidates else Kind.ACTIVATION)
        picked = graph.new("picked", (logits.shape[0],), kind=Kind.RESULT)
        graph.call("pick_logits", [logits, graph.step["targets"]], [picked])
    return [stats, picked, *(candidates if with_candidates else ())]


def _hidden_states(graph: Graph, model, hidden: Value) -> Value:
    """After the last norm, where other models would take their embeddings from."""
    norm = model.output_norm
    return F.rms_norm(
        F.rows(hidden, "hidden_rows"),
        graph.constant(norm.weight, norm.weight.shape),
        eps=norm.eps,
        name="hidden_states",
        kind=Kind.RESULT,
    )
