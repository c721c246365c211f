"""Symbolic values and the nodes between them: what a model's forward pass is, before it has a place to run.

In: a model called on the values of a `Graph`. Out: `graph.nodes`, in an order in which every input is made before it
is used. A graph is built for one number of token slots, so every shape is concrete. It knows nothing of devices: the
planner gives values places, the executors run nodes.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from ..ops import OPS
from ..ops.op import Op
from .step import StepShape


class Kind(Enum):
    ACTIVATION = "activation"  # made and consumed within a step: a place in the arena for as long as it lives
    STEP = "step"  # an array of the step buffer, written by the host before each run
    RESULT = "result"  # read by the host after each run
    STATE = "state"  # lives across steps: the KV cache
    WEIGHT = "weight"  # constant


@dataclass(eq=False)
class Value:
    """A matrix, or a column range of one. `shape[0]` counts rows; a row's elements are neighbours.

    base:       the value whose storage this is a part of (itself for a whole value)
    offset:     first element within the base's storage
    row_stride: elements from one row to the next
    constant:   the weight, vector or cache behind a WEIGHT or STATE value
    """

    graph: "Graph"
    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: Kind
    offset: int = 0
    row_stride: int = 0
    base: "Value" = None
    constant: object = None

    def __post_init__(self):
        self.base = self.base or self
        columns = elements(self.shape[1:])
        # Rows of matrices begin at a multiple of four elements: kernels read them in fours.
        self.row_stride = self.row_stride or (
            -(-columns // 4) * 4 if self.kind is Kind.ACTIVATION and self.dtype == "float32" else columns
        )

    def columns(self, first: int, count: int, name: str = "") -> "Value":
        """The columns first ... first+count-1 as a view: no copy, the same storage."""
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
        """The same rows with their columns split differently, such as (tokens, heads, head_dim)."""
        if elements(shape) != elements(self.shape) or shape[0] != self.shape[0]:
            raise ValueError(f"{self.name}: {self.shape} cannot be seen as {shape}: rows must stay as they are")
        return Value(self.graph, self.name, shape, self.dtype, self.kind, self.offset, self.row_stride, self.base)


@dataclass(eq=False)
class Node:
    """One call of an op: `op.reference(*inputs, **attrs)` gives what is stored in `outputs`."""

    name: str
    op: Op
    inputs: list[Value | None]
    outputs: list[Value]
    attrs: dict = field(default_factory=dict)


def elements(shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


class Graph:
    """Records nodes while a model is called.

    lasting: what the host may read after the step, beside the results: nothing else takes its place. step_shape:
    token slots T of the step, rows M that get logits, and what else a `StepShape` says; num_sequences,
    num_pages_per_sequence: shape (S, P) of the page table. keep: intermediates are to be seen, so models fuse less.
    """

    def __init__(self, step_shape: StepShape, num_sequences: int, pages_per_sequence: int, keep: bool = False):
        num_tokens, num_outputs = step_shape.num_tokens, step_shape.num_outputs
        self.num_tokens, self.num_outputs, self.step_shape, self.keep = num_tokens, num_outputs, step_shape, keep
        self.precision = step_shape.precision  # of the products called from here on
        self.nodes: list[Node] = []
        self.constants: dict[int, Value] = {}
        self.logits: Value | None = None
        self.scored_logits: Value | None = None
        self.results: list[Value] = []
        self.lasting: list[Value] = []
        self.inputs: dict[str, Value] = {}
        self._scope: list[str] = []
        self.step = {
            "tokens": self._step("tokens", (num_tokens,)),
            "positions": self._step("positions", (num_tokens,)),
            "sequences": self._step("sequences", (num_tokens,)),
            "page_table": self._step("page_table", (num_sequences, pages_per_sequence)),
            "output_rows": self._step("output_rows", (num_outputs,)),
            "scored_rows": self._step("scored_rows", (step_shape.num_scored,)),
            "targets": self._step("targets", (step_shape.num_scored,)),
            "hidden_rows": self._step("hidden_rows", (step_shape.num_hidden,)),
        }

    def _step(self, name, shape):
        return Value(self, name, shape, "int32", Kind.STEP)

    @contextmanager
    def scope(self, name: str):
        """Names made within get the prefix `name.`, so that intermediates are called blk.3.attn_norm and the like."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    def full_name(self, name: str) -> str:
        return ".".join([*self._scope, name])

    def constant(self, thing, shape, kind: Kind = Kind.WEIGHT, dtype: str = "float32") -> Value:
        """The value of a weight or a cache; the same thing is always the same value."""
        value = self.constants.get(id(thing))
        if value is None:
            value = self.constants[id(thing)] = Value(
                self, getattr(thing, "name", ""), tuple(shape), dtype, kind, constant=thing
            )
        return value

    def new(self, name: str, shape, dtype: str = "float32", kind: Kind = Kind.ACTIVATION) -> Value:
        return Value(self, self.full_name(name), tuple(shape), dtype, kind)

    def input(self, name: str, shape) -> Value:
        """An activation that the caller of the executor gives (`run(step, inputs={name: array})`)."""
        value = self.inputs[name] = Value(self, name, tuple(shape), "float32", Kind.ACTIVATION)
        return value

    def call(self, op: str, inputs: list[Value | None], outputs: list[Value], **attrs) -> None:
        """Append one op whose outputs have been made by `new` (or are views of such, or of its inputs: in place)."""
        self.nodes.append(Node(outputs[0].name, OPS[op], inputs, outputs, attrs))

    def call_with_scratch(self, op: str, inputs: list[Value | None], outputs: list[Value], **attrs) -> None:
        """`call`, with the memory that the op wants for itself made as well."""
        scratch = [self.new(f"{op}_scratch", shape, dtype) for shape, dtype in OPS[op].scratch(inputs, **attrs)]
        self.call(op, inputs, [*outputs, *scratch], **attrs)
