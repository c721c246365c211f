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
        return tuple(graph.constant(tensor, tensor.shape, Kind.STATE, tensor.dtype) for tensor in self.storage.layers[layer])


def build(model, caches: CacheValues, step_shape: StepShape, num_sequences: int, pages_per_sequence: int, keep: bool = False) -> Graph:
    """`graph.results`: stats, counts, ids and values of ops.top_k, `graph.logits`: (M, vocabulary); both empty where M is 0."""
    graph = Graph(step_shape, num_sequences, pages_per_sequence, keep)
    hidden = model(graph, caches)
    if step_shape.num_outputs:
        graph.precision = "float32"  # logits are never rounded
        graph.logits = model.logits(F.output_rows(hidden))
        shapes = top_k.output_shapes(*graph.logits.shape)
        strips = graph.new("strips", *shapes[0])
        graph.results = [graph.new(name, shape, dtype, Kind.RESULT)
                         for name, (shape, dtype) in zip(("stats", "counts", "ids", "values"), shapes[1:])]
        graph.call("top_k", [graph.logits], [strips, *graph.results], k=CANDIDATES)
    return graph
