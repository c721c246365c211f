"""The ops as functions on symbolic values, for layers and architectures. Shapes: see vkbackend/ops/README.md."""

from dataclasses import dataclass
from typing import Protocol

from ..ops import pairs_by_expert
from ..ops.matmul import precision_for
from ..ops.packed import PackedMatrix
from .builder import Graph, Kind, Value
from .model import LayerCache


def embed(weight: Value, *, scale: float = 1.0, by: str = "tokens", name: str = "embed") -> Value:
    """Rows of `weight` (rows, d) for the step's tokens, times `scale` -> (T, d). by: the array of the step that holds
    the number of the row, "tokens" or "positions".
    """
    graph = weight.graph
    y = graph.new(name, (graph.num_tokens, weight.shape[1]))
    graph.call("embed", [graph.step[by], weight], [y], scale=scale)
    return y


def place_rows(x: Value, rows: Value, values: Value) -> Value:
    """Replace rows of x (T, n), in place -> x."""
    x.graph.call("place_rows", [x, rows, values], [x])
    return x


def rms_norm(
    x: Value,
    weight: Value,
    *,
    eps: float,
    residual: Value | None = None,
    out: Value | None = None,
    name: str = "norm",
    kind: Kind = Kind.ACTIVATION,
) -> Value:
    """x / rms(x) * weight over the last axis [+ residual] -> like x. out: value to write into, instead of a new one; it
    may be x.
    """
    y = out or x.graph.new(name, x.shape, kind=kind)
    x.graph.call("rms_norm", [x, weight, residual], [y], eps=eps)
    return y


def layer_norm(
    x: Value,
    weight: Value,
    *,
    eps: float,
    bias: Value | None = None,
    padding: int = 0,
    residual: Value | None = None,
    name: str = "norm",
    kind: Kind = Kind.ACTIVATION,
    out: Value | None = None,
) -> Value:
    """(x - mean) / deviation * weight [+ bias] over the last axis [+ residual] -> like x. padding: elements that are
    zeros and do not count. out: value to write into, instead of a new one; it may be x.
    """
    y = out or x.graph.new(name, x.shape, kind=kind)
    attrs = {"padding": padding} if padding else {}
    x.graph.call("layer_norm", [x, weight, bias, residual], [y], eps=eps, **attrs)
    return y


def matmul(
    x: Value,
    weight: Value,
    *,
    norm: Value | None = None,
    eps: float = 0.0,
    gate: str = "",
    residual: Value | None = None,
    bias: Value | None = None,
    out: Value | None = None,
    name: str = "matmul",
) -> Value:
    """x (T, K), or rms_norm(x) if `norm` is given, times weight (N, K) transposed [+ bias (N)] [+ residual] -> (T, N).

    gate: "silu" or "gelu" of the first half of the columns times the second half -> (T, N / 2). out: value to write
    into, instead of a new one.
    """
    y = out or x.graph.new(name, (x.shape[0], weight.shape[0] // (2 if gate else 1)))
    assert isinstance(weight.constant, PackedMatrix)
    precision = precision_for(weight.constant, x.graph.precision)
    x.graph.call(
        "matmul",
        [x, weight, norm, residual, bias],
        [y],
        eps=eps,
        gate=gate,
        **({"precision": precision} if precision != "float32" else {}),
    )
    return y


@dataclass(frozen=True)
class Rotation:
    """How heads rotate. turns: (n_rot + 1,) f32 from `rope.turns_per_position`. pairing: one of `rope.PAIRINGS`. axes:
    (n_rot / 2,) i32, the axis of each pair in steps with rope positions; None: the first.
    """

    turns: Value
    pairing: str
    axes: Value | None = None


@dataclass(frozen=True)
class HeadNorms:
    """RMS norms of each query and key head. q, k: (head_dim,) f32. last: after the rotation."""

    q: Value
    k: Value
    eps: float
    last: bool = False


def attend(
    qkv: Value,
    rotation: Rotation,
    norms: HeadNorms | None,
    cache: LayerCache,
    *,
    num_heads: int,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Value | None = None,
) -> Value:
    """Store the keys and values of qkv (T, heads + 2 kv_heads, head_dim) in the cache; attention of its normalized,
    rotated queries -> (T, heads, head_dim). sinks: (heads,) f32 or None, as in `ops.attention`.

    One op if each token belongs to a different sequence and turns by its position, otherwise two.
    """
    graph = qkv.graph
    shape = graph.step_shape
    if not shape.decode or shape.has_rope_positions or shape.has_limits or graph.keep:
        q = split_heads(qkv, rotation, norms, cache, num_heads=num_heads)
        return attention(q, cache, scale=scale, window=window, softcap=softcap, sinks=sinks)
    y = graph.new("attention", (qkv.shape[0], num_heads, qkv.shape[2]))
    graph.call_with_scratch(
        "decode_attention",
        [*_head_inputs(qkv, rotation, norms, cache), sinks],
        [y, cache.keys, cache.values],
        **_head_attrs(rotation, norms),
        **_attention_sizes(graph),
        scale=scale,
        window=window,
        softcap=softcap,
    )
    return y


def _attention_sizes(graph: Graph) -> dict[str, int]:
    """`splits` and `longest` of the step shape, if it has them: the twins have no such arguments."""
    shape = graph.step_shape
    sizes = {"splits": shape.splits} if shape.splits > 1 else {}
    return {**sizes, "longest": shape.longest} if shape.longest else sizes


def split_heads(qkv: Value, rotation: Rotation, norms: HeadNorms | None, cache: LayerCache, *, num_heads: int) -> Value:
    """Store the keys and values of qkv (T, heads + 2 kv_heads, head_dim) in the cache -> normalized, rotated queries
    (T, heads, head_dim).
    """
    graph = qkv.graph
    q = graph.new("q", (qkv.shape[0], num_heads, qkv.shape[2]))
    rope_positions = graph.step.get("rope_positions")
    graph.call(
        "split_heads",
        [
            *_head_inputs(qkv, rotation, norms, cache),
            rope_positions,
            rotation.axes if rope_positions else None,
        ],
        [q, cache.keys, cache.values],
        **_head_attrs(rotation, norms),
    )
    return q


def _head_inputs(qkv: Value, rotation: Rotation, norms: HeadNorms | None, cache: LayerCache) -> list[Value | None]:
    """The inputs that split_heads and decode_attention share."""
    step = qkv.graph.step
    q_norm, k_norm = (norms.q, norms.k) if norms else (None, None)
    return [
        qkv,
        step["positions"],
        step["sequences"],
        cache.page_table,
        rotation.turns,
        q_norm,
        k_norm,
        cache.keys,
        cache.values,
    ]


def _head_attrs(rotation: Rotation, norms: HeadNorms | None) -> dict[str, int | str | float]:
    """The attributes that split_heads and decode_attention share."""
    return {
        "n_rot": rotation.turns.shape[0] - 1,
        "pairing": rotation.pairing,
        "eps": norms.eps if norms else 0.0,
        "norm_last": norms is not None and norms.last,
    }


def attention(
    q: Value,
    cache: LayerCache,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Value | None = None,
) -> Value:
    """Causal attention of q (T, heads, head_dim) over the cache, up to the step's limits if it has any -> like q."""
    graph = q.graph
    step = graph.step
    y = graph.new("attention", q.shape)
    graph.call_with_scratch(
        "attention",
        [
            q,
            cache.keys,
            cache.values,
            step["positions"],
            step["sequences"],
            cache.page_table,
            step.get("limits"),
            sinks,
        ],
        [y],
        **_attention_sizes(graph),
        scale=scale,
        window=window,
        softcap=softcap,
    )
    return y


class Routing(Protocol):
    """How tokens choose experts and weigh them: see ops/route.py."""

    @property
    def count(self) -> int: ...

    @property
    def used(self) -> int: ...

    @property
    def gating(self) -> str: ...

    @property
    def renormalize(self) -> bool: ...

    @property
    def factor(self) -> float: ...

    @property
    def groups(self) -> int: ...

    @property
    def groups_used(self) -> int: ...


@dataclass(frozen=True)
class Routes:
    """The experts of a step's tokens. ids, weights: (T, used). order: of `pairs_by_expert` with `tile`; None for one
    token.
    """

    ids: Value
    weights: Value
    order: Value | None
    tile: int


def route(logits: Value, bias: Value | None, routing: Routing) -> Routes:
    """The experts that the step's tokens use. logits: (T, count)."""
    graph, tokens, used = logits.graph, logits.shape[0], routing.used
    ids, weights = graph.new("experts", (tokens, used), "int32"), graph.new("expert_weights", (tokens, used))
    graph.call(
        "route",
        [logits, bias, graph.step["positions"]],
        [ids, weights],
        used=used,
        gating=routing.gating,
        renormalize=routing.renormalize,
        factor=routing.factor,
        groups=routing.groups,
        groups_used=routing.groups_used,
    )
    tile = pairs_by_expert.best_tile(tokens, used, routing.count)
    order = None
    if tile > 1:
        slots = pairs_by_expert.num_slots(tokens, used, routing.count, tile)
        order = graph.new("pairs_by_expert", (slots,), "int32")
        graph.call("pairs_by_expert", [ids], [order], experts=routing.count, tile=tile)
    return Routes(ids, weights, order, tile)


def expert_matmul(
    x: Value, weight: Value, routes: Routes, *, norm: Value | None = None, eps: float = 0.0, gate: str = ""
) -> Value:
    """`matmul` of each token, or of each row that belongs to a token and one of its experts, with the weights of the
    experts -> (T * used, N).
    """
    constant = weight.constant
    assert isinstance(constant, PackedMatrix)
    tokens, used = routes.ids.shape
    columns = weight.shape[0] // constant.experts // (2 if gate else 1)
    y = x.graph.new("expert_matmul", (tokens * used, columns))
    x.graph.call(
        "expert_matmul",
        [x, weight, routes.ids, routes.order, norm, None],
        [y],
        eps=eps,
        gate=gate,
        tile=routes.tile,
    )
    return y


def mix_experts(
    products: Value,
    routes: Routes,
    *,
    residual: Value | None = None,
    shared: Value | None = None,
    shared_gate: Value | None = None,
) -> Value:
    """The weighted sum of each token's rows of `products` [+ residual] [+ sigmoid(shared_gate) * shared] -> (T, n)."""
    y = products.graph.new("mixed", (routes.ids.shape[0], products.shape[1]))
    products.graph.call("mix_experts", [products, routes.weights, residual, shared, shared_gate], [y])
    return y


def silu_mul(gate: Value, up: Value) -> Value:
    """silu(gate) * up."""
    return _gated("silu_mul", gate, up)


def gelu_mul(gate: Value, up: Value) -> Value:
    """gelu(gate) * up, gelu in its tanh form."""
    return _gated("gelu_mul", gate, up)


GATES = {"silu": silu_mul, "gelu": gelu_mul}


def _gated(op: str, gate: Value, up: Value) -> Value:
    y = gate.graph.new(op, gate.shape)
    gate.graph.call(op, [gate, up], [y])
    return y


def activation(x: Value, kind: str) -> Value:
    """kind: "gelu_tanh", "gelu_erf" or "relu_squared", elementwise."""
    y = x.graph.new(kind, x.shape)
    x.graph.call(kind, [x], [y])
    return y


def rows(x: Value, which: str = "output_rows") -> Value:
    """Rows of x (T, n) selected by an array of the step: "output_rows", "scored_rows" or "hidden_rows" -> (M, n)."""
    graph = x.graph
    y = graph.new(which, (graph.step[which].shape[0], x.shape[1]))
    graph.call("gather_rows", [x, graph.step[which]], [y])
    return y


def softcap(x: Value, cap: float) -> Value:
    """cap * tanh(x / cap)."""
    y = x.graph.new("softcap", x.shape)
    x.graph.call("softcap", [x], [y], cap=cap)
    return y


def scale(x: Value, factor: float, *, out: Value | None = None) -> Value:
    """x * factor. out: value to write into, instead of a new one."""
    y = out or x.graph.new("scaled", x.shape)
    x.graph.call("scale", [x], [y], factor=factor)
    return y


def add(a: Value, b: Value) -> Value:
    """a + b."""
    y = a.graph.new("sum", a.shape)
    a.graph.call("add", [a, b], [y])
    return y
