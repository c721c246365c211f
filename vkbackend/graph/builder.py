"""Symbolic values and the nodes between them: a model's forward pass as data.

In: a model called on the values of a `Graph`. Out: `graph.nodes`, in an order that makes every value before it is
used. A graph is built for one number of token slots, so every shape is concrete. This module knows nothing about
devices: the planner assigns memory to values, and the executors run nodes.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from enum import Enum
from typing import Any

from ..ops import OPS
from ..ops.op import Op
from ..ops.packed import PackedMatrix
from .cache import CacheTensor
from .step import StepShape
from .vector import Vector

Constant = PackedMatrix | Vector | CacheTensor


class Kind(Enum):
    """Where a value is kept, and for how long."""

    ACTIVATION = "activation"  # made and consumed within a step, in the arena
    STEP = "step"  # an array of the step buffer, written by the host before each step
    RESULT = "result"  # read by the host after each step
    STATE = "state"  # kept across steps: the KV cache
    WEIGHT = "weight"  # constant


@dataclass(eq=False)
class Value:
    """A matrix, or a column range of one. `shape[0]` is the number of rows; the elements of a row are contiguous.

    base:       the value whose storage this one is a part of; itself for a whole value
    offset:     first element within the base's storage
    row_stride: elements from one row to the next
    constant:   the weight, vector or cache of a WEIGHT or STATE value
    """

    graph: "Graph"
    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: Kind
    offset: int = 0
    row_stride: int = 0
    part_of: InitVar["Value | None"] = None
    constant: Constant | None = None
    base: "Value" = field(init=False)

    def __post_init__(self, part_of: "Value | None"):
        self.base = part_of or self
        if not self.row_stride:
            self.row_stride = math.prod(self.shape[1:])
            if self.kind is Kind.ACTIVATION and self.dtype == "float32":
                self.row_stride = -(-self.row_stride // 4) * 4  # kernels read activations in vectors of four

    def columns(self, first: int, count: int, name: str = "") -> "Value":
        """Columns first ... first + count - 1, as a view of the same storage."""
        return Value(
            self.graph,
            self.graph.full_name(name) if name else self.name,
            (self.shape[0], count),
            self.dtype,
            self.kind,
            self.offset + first,
            self.row_stride,
            self.base,
        )

    def reshape(self, *shape: int) -> "Value":
        """A view of the same rows with their columns split differently, such as (tokens, heads, head_dim)."""
        if math.prod(shape) != math.prod(self.shape) or shape[0] != self.shape[0]:
            raise ValueError(f"{self.name}: {self.shape} cannot be viewed as {shape}: a view keeps the rows")
        return Value(self.graph, self.name, shape, self.dtype, self.kind, self.offset, self.row_stride, self.base)


@dataclass(eq=False)
class Node:
    """One call of an op: `op.reference(*inputs, **attrs)` returns the values of `outputs`."""

    name: str
    op: Op
    inputs: list[Value | None]
    outputs: list[Value]
    attrs: dict[str, Any] = field(default_factory=dict)


class Graph:
    """Records nodes while a model is called.

    step_shape: sizes of the step. table_shape: (S, P) of the page tables. keep: intermediates will be read, so models
    fuse fewer ops. precision: of the matrix products called from here on. lasting: activations that the host may read
    after the step, so their memory is not reused. page_tables: those that layers use, by the index of their group.
    """

    def __init__(self, step_shape: StepShape, table_shape: tuple[int, int], keep: bool = False):
        num_tokens, num_outputs = step_shape.num_tokens, step_shape.num_outputs
        self.num_tokens = num_tokens
        self.num_outputs = num_outputs
        self.step_shape = step_shape
        self.keep = keep
        self.precision = step_shape.precision
        self.nodes: list[Node] = []
        self.constants: dict[int, Value] = {}
        self.logits: Value | None = None
        self.scored_logits: Value | None = None
        self.results: list[Value] = []
        self.lasting: list[Value] = []
        self.inputs: dict[str, Value] = {}
        self.page_tables: dict[int, Value] = {}
        self._table_shape = table_shape
        self._scope: list[str] = []
        self.step = {
            "tokens": self._step("tokens", (num_tokens,)),
            "positions": self._step("positions", (num_tokens,)),
            "sequences": self._step("sequences", (num_tokens,)),
            "output_rows": self._step("output_rows", (num_outputs,)),
            "scored_rows": self._step("scored_rows", (step_shape.num_scored,)),
            "targets": self._step("targets", (step_shape.num_scored,)),
            "hidden_rows": self._step("hidden_rows", (step_shape.num_hidden,)),
        }
        # Only steps with embeddings have these, so that others are recorded without them.
        if step_shape.num_embedded:
            self.step["embedded_rows"] = self._step("embedded_rows", (step_shape.num_embedded,))
        if step_shape.has_rope_positions:
            self.step["rope_positions"] = self._step("rope_positions", (num_tokens, 4))
        if step_shape.has_limits:
            self.step["limits"] = self._step("limits", (num_tokens,))

    def _step(self, name: str, shape: tuple[int, ...]) -> Value:
        return Value(self, name, shape, "int32", Kind.STEP)

    def page_table(self, group: int) -> Value:
        """The page table of a group of layers, (S, P) i32."""
        if group not in self.page_tables:
            self.page_tables[group] = self._step(f"page_table.{group}", self._table_shape)
        return self.page_tables[group]

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix names made within with `name.`, which gives intermediates names like blk.3.attn_norm."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    def full_name(self, name: str) -> str:
        """`name` behind the names of the enclosing scopes: "blk.3.ffn_norm"."""
        return ".".join([*self._scope, name])

    def constant(self, constant: Constant) -> Value:
        """The value of a weight or a cache; always the same one for the same object."""
        value = self.constants.get(id(constant))
        if value is None:
            is_cache = isinstance(constant, CacheTensor)
            dtype = constant.values.dtype.name if isinstance(constant, Vector) else "float32"
            value = Value(
                self,
                constant.name,
                tuple(constant.shape),
                constant.dtype if is_cache else dtype,
                Kind.STATE if is_cache else Kind.WEIGHT,
                constant=constant,
            )
            self.constants[id(constant)] = value
        return value

    def new(self, name: str, shape: Sequence[int], dtype: str = "float32", kind: Kind = Kind.ACTIVATION) -> Value:
        """A value of its own storage, for an op to write."""
        return Value(self, self.full_name(name), tuple(shape), dtype, kind)

    def input(self, name: str, shape: Sequence[int]) -> Value:
        """An activation that the executor's caller provides (`run(step, inputs={name: array})`)."""
        value = self.inputs[name] = Value(self, name, tuple(shape), "float32", Kind.ACTIVATION)
        return value

    def call(self, op: str, inputs: list[Value | None], outputs: list[Value], **attrs: Any) -> None:
        """Append an op. Its outputs were made by `new`, or are views of such values, or of its inputs (in place)."""
        self.nodes.append(Node(outputs[0].name, OPS[op], inputs, outputs, attrs))

    def call_with_scratch(self, op: str, inputs: list[Value | None], outputs: list[Value], **attrs: Any) -> None:
        """`call`, with scratch memory for the op as further outputs."""
        scratch = [self.new(f"{op}_scratch", shape, dtype) for shape, dtype in OPS[op].scratch(inputs, **attrs)]
        self.call(op, inputs, [*outputs, *scratch], **attrs)
