"""Layers with weights of their own: linear, norm, embedding.

In: placed matrices and vectors. Out: callables on symbolic values. `weights.Weights` makes them by GGUF names,
`blocks.py` puts them together.
"""

from collections.abc import Sequence
from typing import Any

from ..graph import functions as F
from ..graph.builder import Graph, Kind, Value
from ..graph.step import EMBEDDINGS
from ..graph.vector import Vector
from ..ops.packed import PackedMatrix


class LowRank:
    """The pair of an adapter for some outputs of a product: y += scale * (x A^T) B^T.

    a: (rank, columns). b: (rows, rank). first: of the outputs. The rank is padded with zeros.
    """

    def __init__(self, a: PackedMatrix, b: PackedMatrix, scale: float, first: int = 0):
        self.a = a
        self.b = b
        self.scale = scale
        self.first = first

    def add_product(self, y: Value, x: Value, fused: dict[str, Any]) -> None:
        """Add the product of x (T, columns) to y (T, num_rows). fused: as from `prepared`."""
        self._add(y, F.matmul(x, x.graph.constant(self.a), name="lora", **fused), self.scale)

    def add_rows(self, y: Value, factor: float) -> None:
        """Add the rows of the step's tokens, times `factor`, to y (T, rows). a: (vocabulary, rank)."""
        self._add(y, F.embed(y.graph.constant(self.a), scale=factor * self.scale), 1.0)

    def _add(self, y: Value, low: Value, factor: float) -> None:
        """low: (T, rank)."""
        low = low if factor == 1 else F.scale(low, factor)
        rows = self.b.shape[0]
        part = y if rows == y.shape[1] else y.columns(self.first, rows)
        F.matmul(low, y.graph.constant(self.b), residual=part, out=part)


class Linear:
    """One or several weights with the same input, computed into one (T, sum of rows) buffer.

    biases: one per weight, or None. low_ranks: of adapters. norm: of the input, fused into the products.
    """

    def __init__(
        self, stacks: list[PackedMatrix], biases: list[Vector | None], name: str, low_ranks: Sequence[LowRank] = ()
    ):
        self.stacks = stacks
        self.biases = biases
        self.name = name
        self.low_ranks = low_ranks
        self.num_rows = sum(weight.shape[0] for weight in stacks)

    def __call__(
        self, x: Value, norm: "Norm | None" = None, residual: Value | None = None, out: Value | None = None
    ) -> Value:
        """norm(x) times the weights transposed [+ biases] [+ residual]: (T, columns) -> (T, num_rows). out: value to
        write into, instead of a new one.
        """
        graph = x.graph
        x, fused = prepared(x, norm)
        y = out or graph.new(self.name, (x.shape[0], self.num_rows))
        first = 0
        for weight, bias in zip(self.stacks, self.biases):
            rows = weight.shape[0]
            whole = rows == self.num_rows
            F.matmul(
                x,
                graph.constant(weight),
                out=y if whole else y.columns(first, rows),
                residual=residual if whole or residual is None else residual.columns(first, rows),
                bias=optional(graph, bias),
                **fused,
            )
            first += rows
        for low_rank in self.low_ranks:
            low_rank.add_product(y, x, fused)
        return y


def optional(graph: Graph, vector: Vector | None) -> Value | None:
    """The value of a vector that may be missing."""
    return graph.constant(vector) if vector is not None else None


def prepared(x: Value, norm: "Norm | None") -> tuple[Value, dict[str, Any]]:
    """x, and the arguments that fuse the norm into a product; a separate norm if intermediates are kept."""
    if norm is None:
        return x, {}
    if x.graph.keep or isinstance(norm, LayerNorm):
        return norm(x), {}
    return x, {"norm": x.graph.constant(norm.weight), "eps": norm.eps}


class RMSNorm:
    """Divides rows by their root mean square and multiplies them by `weight`. eps: added to the mean of squares."""

    def __init__(self, weight: Vector, eps: float, name: str):
        self.weight = weight
        self.eps = eps
        self.name = name

    def __call__(
        self,
        x: Value,
        residual: Value | None = None,
        *,
        name: str = "",
        kind: Kind = Kind.ACTIVATION,
        out: Value | None = None,
    ) -> Value:
        """x / rms(x) * weight over the last axis [+ residual] -> like x. out: as in `functions.rms_norm`."""
        weight = x.graph.constant(self.weight)
        return F.rms_norm(x, weight, eps=self.eps, residual=residual, name=name or self.name, kind=kind, out=out)


class LayerNorm:
    """Subtracts the mean of rows, divides them by their standard deviation, multiplies them by `weight` and adds
    `bias`. eps: added to the variance. padding: elements of a row that are zeros and do not count.
    """

    def __init__(self, weight: Vector, bias: Vector | None, eps: float, padding: int, name: str):
        self.weight = weight
        self.bias = bias
        self.eps = eps
        self.padding = padding
        self.name = name

    def __call__(
        self,
        x: Value,
        residual: Value | None = None,
        *,
        name: str = "",
        kind: Kind = Kind.ACTIVATION,
        out: Value | None = None,
    ) -> Value:
        """(x - mean) / deviation * weight + bias over the last axis [+ residual] -> like x. out: value to write into,
        which may be x.
        """
        graph = x.graph
        return F.layer_norm(
            x,
            graph.constant(self.weight),
            bias=optional(graph, self.bias),
            eps=self.eps,
            padding=self.padding,
            residual=residual,
            name=name or self.name,
            kind=kind,
            out=out,
        )


Norm = RMSNorm | LayerNorm


class Embedding:
    """Rows of `weight` for the step's tokens, times `scale`; rows of embeddings in a step are placed as they are. To
    both, rows of `positions` are added.
    """

    def __init__(self, weight: PackedMatrix, scale: float = 1.0, low_ranks: Sequence[LowRank] = ()):
        self.weight = weight
        self.scale = scale
        self.low_ranks = low_ranks
        self.positions: PackedMatrix | None = None

    def __call__(self, graph: Graph) -> Value:
        """The rows of the step's tokens: (T, width)."""
        x = F.embed(graph.constant(self.weight), scale=self.scale)
        for low_rank in self.low_ranks:
            low_rank.add_rows(x, self.scale)
        if graph.step_shape.num_embedded:
            embeddings = graph.input(EMBEDDINGS, (graph.step_shape.num_embedded, x.shape[1]))
            x = F.place_rows(x, graph.step["embedded_rows"], embeddings)
        if self.positions is None:
            return x
        return F.add(x, F.embed(graph.constant(self.positions), by="positions", name="embed_positions"))
