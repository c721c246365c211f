"""What each op of a graph becomes in a `Program`: `LOWERINGS[op](program, node)`. Ops that are not in the table call
their numpy reference.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _cpu
from ..graph.builder import Kind, Node, Value
from ..graph.cache import CacheTensor
from ..graph.host_executor import constant_argument, is_constant
from ..ops.packed import PackedMatrix
from ..ops.q8_cache import Q8Cache
from .program import Program

Lowering = Callable[[Program, Node], None]


def lower(program: Program) -> None:
    """Append all nodes of the program's graph."""
    for node in program.graph.nodes:
        LOWERINGS.get(node.op.name, reference)(program, node)
        if node.op.name != "matmul":
            program.last_norm = None  # what was normalized may have changed
    program.close()


def reference(program: Program, node: Node) -> None:
    """Call the numpy reference."""
    arguments = [_argument(program, value) for value in node.inputs]
    outputs = [None if value.base.kind is Kind.STATE else program.array(value) for value in node.outputs]

    def call() -> None:
        results = node.op.reference(*arguments, **node.attrs)
        for output, result in zip(outputs, results if isinstance(results, tuple) else (results,)):
            if output is not None:
                output[...] = result.reshape(output.shape)

    program.python(call)


def matmul(program: Program, node: Node) -> None:
    """Norm, one product for each tensor, then bias, gate and residual, which may be where the result goes."""
    x, weight, norm, residual, bias = (_argument(program, value) for value in node.inputs)
    y, gate = program.array(node.outputs[0]), node.attrs.get("gate", "")
    assert isinstance(weight, PackedMatrix), "only weights of a file are factors"
    if norm is None:
        program.last_norm = None
    else:
        x = _normalized(program, x, norm, node.attrs.get("eps", 0.0))
    rows = weight.shape[0]
    is_in_place = residual is not None and np.may_share_memory(residual, y)
    products = program.scratch("products", (len(x), rows)) if gate or is_in_place else y
    first = 0
    for raw in weight.raws:
        program.product(raw, weight.format, x, products[:, first : first + len(raw)])
        first += len(raw)
    if gate or bias is not None or residual is not None:
        program.call(_cpu.finish(products, bias, residual, y, gate))


def _normalized(program: Program, x: np.ndarray, norm: np.ndarray, eps: float) -> np.ndarray:
    """The norm of x, computed once for neighboring products of the same rows."""
    key = "norm", x.ctypes.data, x.shape, norm.ctypes.data, eps
    found = program.scratch("normalized", x.shape)
    if program.last_norm != key:
        program.call(_cpu.rms_norm(x, norm, None, found, eps))
        program.last_norm = key
    return found


def expert_matmul(program: Program, node: Node) -> None:
    """Norm, a product by expert for each tensor, then gate. Pairs without an expert take the first one's."""
    x, weight, ids, _, norm, bias = (_argument(program, value) for value in node.inputs)
    assert isinstance(weight, PackedMatrix), "only weights of a file are factors"
    if bias is not None:
        return reference(program, node)
    if norm is None:
        program.last_norm = None
    else:
        x = _normalized(program, x, norm, node.attrs["eps"])
    y, gate = program.array(node.outputs[0]), node.attrs["gate"]
    rows = len(weight.raws[0]) // weight.experts
    products = program.scratch("products", (len(y), 2 * rows)) if gate else y
    for at, raw in enumerate(weight.raws):
        part = products[:, at * rows : (at + 1) * rows]
        program.product_by_expert(raw, weight.format, weight.experts, x, ids, part)
    if gate:
        program.call(_cpu.finish(products, None, None, y, gate))


def route(program: Program, node: Node) -> None:
    """The numpy reference, with expert 0 where a token is unused: its weight there is 0."""
    reference(program, node)
    ids = program.array(node.outputs[0])

    def replace_unused() -> None:
        np.maximum(ids, 0, out=ids)

    program.python(replace_unused)


def rms_norm(program: Program, node: Node) -> None:
    """The norm over heads or whole rows."""
    x, weight, residual = (_argument(program, value) for value in node.inputs)
    program.call(_cpu.rms_norm(x, weight, residual, program.array(node.outputs[0]), node.attrs["eps"]))


def layer_norm(program: Program, node: Node) -> None:
    """The norm over heads or whole rows."""
    x, weight, bias, residual = (_argument(program, value) for value in node.inputs)
    y = program.array(node.outputs[0])
    program.call(_cpu.layer_norm(x, weight, bias, residual, y, node.attrs["eps"], node.attrs.get("padding", 0)))


def activation(program: Program, node: Node) -> None:
    """Activations of one argument."""
    program.call(_cpu.activation(_argument(program, node.inputs[0]), program.array(node.outputs[0]), node.op.name))


def gated(program: Program, node: Node) -> None:
    """silu_mul and gelu_mul."""
    gate, up = (_argument(program, value) for value in node.inputs)
    program.call(_cpu.gate(gate, up, program.array(node.outputs[0]), node.op.name.removesuffix("_mul")))


def softcap(program: Program, node: Node) -> None:
    """The soft cap of logits."""
    program.call(_cpu.softcap(_argument(program, node.inputs[0]), program.array(node.outputs[0]), node.attrs["cap"]))


def gather_rows(program: Program, node: Node) -> None:
    """Rows of hidden states."""
    x, rows = (_argument(program, value) for value in node.inputs)
    program.call(_cpu.gather(x, rows, program.array(node.outputs[0])))


def split_heads(program: Program, node: Node) -> None:
    """Rotation of all tokens, computed once for all layers that rotate alike, then the heads of a layer."""
    if not _has_kernels(node.inputs[7]):
        return reference(program, node)
    qkv, positions, sequences, page_table, turns, q_norm, k_norm = (_argument(program, v) for v in node.inputs[:7])
    rope_positions, axes = (_argument(program, value) for value in (*node.inputs[9:], None, None)[:2])
    keys, values = (_cache(value) for value in node.inputs[7:9])
    program.call(
        _cpu.split_heads(
            qkv,
            _rotation(program, positions if rope_positions is None else rope_positions, axes, turns),
            q_norm,
            k_norm,
            positions,
            sequences,
            page_table,
            *keys,
            *values,
            program.array(node.outputs[0]),
            node.attrs["pairing"] == "adjacent",
            node.attrs.get("eps", 0.0),
            node.attrs.get("norm_last", False),
        )
    )


def _rotation(program: Program, positions: np.ndarray, axes: np.ndarray | None, turns: np.ndarray) -> np.ndarray:
    """Cosines and sines of each token, (T, n_rot)."""
    key = turns.tobytes(), None if axes is None else axes.tobytes()
    if key not in program.rotations:
        program.rotations[key] = np.empty((len(positions), len(turns) - 1), np.float32)
        program.call(_cpu.rotation(positions, axes, turns, program.rotations[key]))
    return program.rotations[key]


def attention(program: Program, node: Node) -> None:
    """Attention over the cache."""
    if not _has_kernels(node.inputs[1]):
        return reference(program, node)
    q, _, _, positions, sequences, page_table = (_argument(program, value) for value in node.inputs[:6])
    limits, sinks = (_argument(program, value) for value in (*node.inputs[6:], None, None)[:2])
    program.call(
        _cpu.attention(
            q,
            positions,
            sequences,
            page_table,
            limits,
            sinks,
            *_cache(node.inputs[1]),
            *_cache(node.inputs[2]),
            program.array(node.outputs[0]),
            node.attrs["scale"],
            node.attrs.get("window", 0),
            node.attrs.get("softcap", 0.0),
        )
    )


def top_k(program: Program, node: Node) -> None:
    """Two passes: the strips of all rows, then each row."""
    logits = _argument(program, node.inputs[0])
    strips, stats, counts, ids, values = (program.array(value) for value in node.outputs)
    program.call(_cpu.strips(logits, strips.reshape(len(strips), -1)))
    program.call(_cpu.candidates(logits, strips.reshape(len(strips), -1), stats, counts, ids, values, node.attrs["k"]))


LOWERINGS: dict[str, Lowering] = {
    "matmul": matmul,
    "expert_matmul": expert_matmul,
    "route": route,
    "rms_norm": rms_norm,
    "layer_norm": layer_norm,
    "gelu_tanh": activation,
    "gelu_erf": activation,
    "relu_squared": activation,
    "silu_mul": gated,
    "gelu_mul": gated,
    "softcap": softcap,
    "gather_rows": gather_rows,
    "split_heads": split_heads,
    "attention": attention,
    "top_k": top_k,
}


def _argument(program: Program, value: Value | None) -> Any:
    """The array of a value, the values of a vector, or a weight or cache as the references take it."""
    if value is None or is_constant(value):
        return constant_argument(value)
    return program.array(value)


def _has_kernels(cache: Value | None) -> bool:
    """Whether the kernels can read heads of this size."""
    assert cache is not None, "keys are in a cache"
    return cache.shape[-1] % 8 == 0 and cache.shape[-1] <= _cpu.MAX_HEAD_DIM


def _cache(value: Value | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The elements of a cache, and its scales if it has any."""
    assert value is not None and isinstance(value.base.constant, CacheTensor), "keys and values are in a cache"
    array = value.base.constant.array
    assert array is not None, "a cache on the CPU has an array"
    return (array.codes, array.scales) if isinstance(array, Q8Cache) else (array, None)
