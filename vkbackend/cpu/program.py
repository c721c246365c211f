"""A step as ggml graphs: products on the weights as they lie in the file, by ggml or by kernels of `vkbackend._cpu`,
other kernels of `vkbackend._cpu` as custom ops between them, and Python functions between graphs for ops that have no
kernel.

In: a `Graph`, whose activations get memory here, and what `lowering.py` makes of its nodes. Out: `run`. ggml ends the
process if a tensor does not fit, so `product` checks types, shapes and sizes first.
"""

import ctypes
import math
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from .. import _cpu
from ..gguf.quant_format import QuantFormat
from ..graph.builder import Graph, Kind, Value
from ..graph.host_executor import PreparedStep, ValueReader
from ..graph.planner import plan_arena
from .alignment import ALIGNMENT, is_aligned
from .memory import Memory
from .pool import Pool

MAX_NODES = 1 << 14  # of one ggml graph


class Program(PreparedStep):
    """A prepared step. memory: for activations, shared by the programs of an executor, which run one at a time.
    own_products: names of the formats whose products are kernels of `vkbackend._cpu`; those of others are ggml's.
    """

    def __init__(
        self,
        ggml: ModuleType,
        pool: Pool,
        graph: Graph,
        memory: Memory,
        keep: bool = False,
        own_products: Collection[str] = (),
    ):
        super().__init__(graph)
        self.keep = keep
        self.own_products = own_products
        self.rotations: dict[object, np.ndarray] = {}  # cosines and sines that several layers use
        self.last_norm: object = None  # what the scratch memory of norms holds
        self._ggml = ggml
        self._pool = pool
        self._memory = memory
        self._arena = plan_arena(graph, keep)
        self._arrays: dict[Value, np.ndarray] = {}  # base value -> its array, (rows, row_stride)
        self._runs: list[Callable[[], None]] = []
        self._segment: _Segment | None = None
        self._last_codes: tuple[object, np.ndarray] | None = None  # activations of 8 bits that nothing has changed

    def array(self, value: Value) -> np.ndarray:
        """The array of an activation, a result or an input of the step: a view of its memory."""
        base = value.base
        if base not in self._arrays:
            self._arrays[base] = self._allocated(base)
        found = self._arrays[base]
        if base.kind is not Kind.ACTIVATION:
            return found
        count = math.prod(value.shape[1:])
        return found[:, value.offset : value.offset + count].reshape(value.shape)

    def _allocated(self, base: Value) -> np.ndarray:
        if base.kind is not Kind.ACTIVATION:
            return np.zeros(base.shape, base.dtype)
        shape = base.shape[0], base.row_stride
        return self._memory.array("arena", self._arena.offsets[base], self._arena.num_bytes, shape, base.dtype)

    def scratch(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Memory of float32 for a single node, shared with all other nodes that use the same name."""
        return self._memory.array(name, 0, 4 * math.prod(shape), shape, "float32")

    def product(self, raw: np.ndarray, kind: QuantFormat, x: np.ndarray, y: np.ndarray) -> None:
        """y (T, N) = x (T, K) times a weight (N, K) transposed. raw: the weight's rows as in the file, uint8.

        Raises ValueError for shapes that do not fit, and for a weight that ggml cannot read where it is.
        """
        rows, k = len(raw), x.shape[1]
        row_bytes = k // kind.block_size * kind.type_size
        if k % kind.block_size or raw.shape != (rows, row_bytes) or not raw.flags.c_contiguous:
            raise ValueError(f"a weight of {kind.name} {raw.shape} cannot be multiplied by rows of {k}")
        if y.shape != (len(x), rows) or not len(x) or not rows or x.strides[1] != 4 or y.strides[1] != 4:
            raise ValueError(f"{x.shape} times {rows} rows is not {y.shape}")
        number = int(kind.type)
        if kind.name in self.own_products:
            codes = self._codes(number, x)
            self._open().call(_cpu.product(raw, number, codes, k, y))
        else:
            if not is_aligned(raw):
                raise ValueError(f"a weight at {raw.ctypes.data:#x} is not at a multiple of {ALIGNMENT} bytes")
            self._last_codes = None
            self._open().product(raw, number, x, y)

    def product_by_expert(
        self, raw: np.ndarray, kind: QuantFormat, experts: int, x: np.ndarray, ids: np.ndarray, y: np.ndarray
    ) -> None:
        """y (T * used, N) = rows of x (T, K) or (T * used, K), each times the weight (N, K) transposed of its expert.
        raw: the rows of all experts as in the file, uint8; ids: (T, used) i32 in 0 ... experts - 1.

        Raises ValueError for shapes that do not fit, and for a weight that ggml cannot read where it is.
        """
        rows, k = len(raw) // experts, x.shape[1]
        row_bytes = k // kind.block_size * kind.type_size
        if k % kind.block_size or raw.shape != (experts * rows, row_bytes) or not raw.flags.c_contiguous:
            raise ValueError(f"{experts} experts of {kind.name} {raw.shape} cannot be multiplied by rows of {k}")
        tokens, used = ids.shape
        if len(x) not in (tokens, tokens * used) or y.shape != (tokens * used, rows) or not y.size:
            raise ValueError(f"{x.shape} times {rows} rows of {used} experts is not {y.shape}")
        if x.strides[1] != 4 or y.strides[1] != 4 or ids.dtype != np.int32 or not ids.flags.c_contiguous:
            raise ValueError("activations must have contiguous rows of float32, and ids be contiguous int32")
        if not is_aligned(raw):
            raise ValueError(f"a weight at {raw.ctypes.data:#x} is not at a multiple of {ALIGNMENT} bytes")
        self._last_codes = None
        self._open().product_by_expert(raw, int(kind.type), experts, x, ids, y)

    def _codes(self, kind: int, x: np.ndarray) -> np.ndarray:
        """x in 8 bits for weights of a format, computed once for consecutive products of the same rows."""
        num_bytes = _cpu.num_code_bytes(kind, *x.shape)
        key = x.ctypes.data, x.shape, x.strides, _cpu.group_size(kind)
        if self._last_codes is None or self._last_codes[0] != key:
            codes = self._memory.array("codes", 0, num_bytes, (num_bytes,), "uint8")
            self.call(_cpu.quantize(x, kind, codes))
            self._last_codes = key, codes
        return self._last_codes[1]

    def call(self, call: _cpu.Call) -> None:
        """Append a kernel."""
        self._last_codes = None
        self._open().call(call)

    def python(self, function: Callable[[], None]) -> None:
        """Append a Python function, which ends the current ggml graph."""
        self._last_codes = None
        self.close()
        self._runs.append(function)

    def close(self) -> None:
        """End the current ggml graph, if there is one."""
        if self._segment is not None:
            self._segment.close()
            self._runs.append(self._segment.run)
            self._segment = None

    def _open(self) -> "_Segment":
        if self._segment is None:
            self._segment = _Segment(self._ggml, self._pool)
        return self._segment

    def run(self, inputs: Mapping[Value, np.ndarray]) -> ValueReader:
        """Copy the inputs, then run the graphs and functions in order."""
        for value, array in inputs.items():
            if array.size:
                self.array(value)[...] = array
        for run in self._runs:
            run()
        return self.array


class _Segment:
    """One ggml graph. Its nodes run in the order in which they were appended, whatever they depend on."""

    def __init__(self, ggml: ModuleType, pool: Pool):
        self.ggml = ggml
        self.pool = pool
        self.kept: list[Any] = []  # calls and arrays that the graph points to
        self.appended: list[Callable[[Any], Any]] = []  # each makes a node in a context
        self.context: Any = None

    def product(self, raw: np.ndarray, kind: int, x: np.ndarray, y: np.ndarray) -> None:
        self.kept += [raw, x, y]

        def make(context: Any) -> Any:
            ggml = self.ggml
            weight = ggml.ggml_new_tensor_2d(context, kind, x.shape[1], len(raw))
            weight.contents.data = raw.ctypes.data
            rows = ggml.ggml_new_tensor_2d(context, ggml.GGML_TYPE_F32, x.shape[1], len(x))
            node = ggml.ggml_mul_mat(context, weight, rows)
            _point(rows, x)
            _point(node, y)
            return node

        self.appended.append(make)

    def product_by_expert(
        self, raw: np.ndarray, kind: int, experts: int, x: np.ndarray, ids: np.ndarray, y: np.ndarray
    ) -> None:
        self.kept += [raw, x, ids, y]
        tokens, used = ids.shape
        rows_per_token = len(x) // tokens

        def make(context: Any) -> Any:
            ggml = self.ggml
            weight = ggml.ggml_new_tensor_3d(context, kind, x.shape[1], len(raw) // experts, experts)
            weight.contents.data = raw.ctypes.data
            rows = ggml.ggml_new_tensor_3d(context, ggml.GGML_TYPE_F32, x.shape[1], rows_per_token, tokens)
            chosen = ggml.ggml_new_tensor_2d(context, ggml.GGML_TYPE_I32, used, tokens)
            chosen.contents.data = ids.ctypes.data
            node = ggml.ggml_mul_mat_id(context, weight, rows, chosen)
            _point_in_groups(rows, x, rows_per_token)
            _point_in_groups(node, y, used)
            return node

        self.appended.append(make)

    def call(self, call: _cpu.Call) -> None:
        self.kept.append(call)
        function = self.ggml.ggml_custom_op_t(_cpu.ENTRY)
        self.kept.append(function)

        def make(context: Any) -> Any:
            return self.ggml.ggml_custom_4d(
                context, self.ggml.GGML_TYPE_F32, 1, 1, 1, 1, None, 0, function, -1, call.address
            )

        self.appended.append(make)

    def close(self) -> None:
        """Make the ggml graph."""
        ggml, count = self.ggml, len(self.appended)
        if count > MAX_NODES:
            raise ValueError(f"a step has {count} nodes, more than {MAX_NODES}")
        size = 4 * count * ggml.ggml_tensor_overhead() + ggml.ggml_graph_overhead_custom(4 * count, False)
        self.context = ggml.ggml_init(ggml.ggml_init_params(mem_size=size + 4096, mem_buffer=None, no_alloc=True))
        if not self.context:
            raise MemoryError("ggml_init failed")
        graph = ggml.ggml_new_graph_custom(self.context, 4 * count, False)
        for make in self.appended:
            ggml.ggml_build_forward_expand(graph, make(self.context))
        self.appended.clear()
        self.graph = graph
        self.plan = ggml.ggml_graph_plan(graph, self.pool.num_threads, self.pool.handle)
        self.work = np.empty(self.plan.work_size + 64, np.uint8)
        self.plan.work_data = self.work.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))

    def run(self) -> None:
        status = self.ggml.ggml_graph_compute(self.graph, ctypes.byref(self.plan))
        if status:
            raise RuntimeError(f"ggml_graph_compute failed with status {status}")

    def __del__(self) -> None:
        if self.context:
            self.ggml.ggml_free(self.context)


def _point(tensor: Any, array: np.ndarray) -> None:
    """Let a tensor of two dimensions refer to an array's memory."""
    fields = tensor.contents
    fields.data = array.ctypes.data
    if len(array) > 1:
        fields.nb[1] = array.strides[0]
        fields.nb[2] = fields.nb[3] = array.strides[0] * len(array)


def _point_in_groups(tensor: Any, array: np.ndarray, size: int) -> None:
    """Let a tensor of three dimensions refer to an array's memory, `size` rows for each index of the last one."""
    fields = tensor.contents
    fields.data = array.ctypes.data
    stride = array.strides[0] if len(array) > 1 else 4 * array.shape[1]
    fields.nb[1] = stride
    fields.nb[2] = stride * size
    fields.nb[3] = stride * len(array)
