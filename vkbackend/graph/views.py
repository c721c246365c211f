"""Where the values of a graph are in device memory, once the planner has placed them."""

from dataclasses import dataclass, field

from .. import _native
from ..device.buffers import Buffer
from ..ops.op import TensorView
from ..ops.packed import PackedMatrix
from .builder import Kind, Value
from .cache import CacheTensor
from .planner import ArenaPlan, storage_bytes
from .vector import Vector


@dataclass
class Views:
    """Makes the views of values. found: the ones made so far, in order."""

    activations: "_native.Memory"
    arena: ArenaPlan
    results: "_native.Memory | None"
    result_offsets: dict[Value, int]
    step_buffers: dict[Value, Buffer]
    found: dict[Value, TensorView] = field(default_factory=dict)

    def input(self, value: Value | None) -> TensorView | PackedMatrix | None:
        """The argument of an op for one of its inputs; a matrix is its own."""
        if value is None:
            return None
        return value.constant if isinstance(value.constant, PackedMatrix) else self.of(value)

    def of(self, value: Value) -> TensorView:
        """The device memory of a value, which must have been placed."""
        if value not in self.found:
            self.found[value] = TensorView(
                self._buffer(value.base), value.shape, value.dtype, value.offset, value.row_stride
            )
        return self.found[value]

    def _buffer(self, base: Value) -> Buffer:
        if base.kind is Kind.ACTIVATION:
            return Buffer(self.activations, self.arena.offsets[base], storage_bytes(base))
        if base.kind is Kind.RESULT:
            assert self.results is not None
            return Buffer(self.results, self.result_offsets[base], storage_bytes(base))
        if base.kind is Kind.STEP:
            return self.step_buffers[base]
        assert isinstance(base.constant, Vector | CacheTensor) and base.constant.buffer is not None
        return base.constant.buffer
