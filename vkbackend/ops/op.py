"""The parts of an op: a contract, a numpy twin, its dispatches, and the cases on which the two must agree.

In: `TensorView`s (ranges of device memory with a shape) or, for the twin, numpy arrays. Out: `Dispatch`es. An op
knows nothing of graphs or models.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..device.buffers import Buffer
from ..device.context import Device
from ..device.dispatch import Dispatch
from .signature import Signature

# Operations of a dispatch, unless a single token takes more: about 100 ms on a small integrated GPU. Drivers reset the
# device during long ones.
MOST_FLOPS = 20e9
BASE_LANES = 32  # workgroup size of the base variants, which need no subgroup feature
Scratch = list[tuple[tuple[int, ...], str]]  # shape and dtype of each scratch buffer


class Shaped(Protocol):
    """Anything with a shape: an array, a `TensorView`, a symbolic value of a graph."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class TensorView:
    """A matrix in device memory, or a column range of one; offset and row_stride in elements."""

    buffer: Buffer
    shape: tuple[int, ...]
    dtype: str = "float32"
    offset: int = 0
    row_stride: int = 0

    @property
    def stride(self) -> int:
        """Elements from one row to the next."""
        return self.row_stride or int(np.prod(self.shape[1:]))

    @property
    def row_elements(self) -> int:
        """Elements of one row of the view."""
        return int(np.prod(self.shape[1:]))

    def elements(self, name: str) -> dict[str, int]:
        """Push constants NAME_offset and NAME_stride, in elements."""
        return {f"{name}_offset": self.offset, f"{name}_stride": self.stride}

    def fours(self, name: str) -> dict[str, int]:
        """Push constants NAME_offset and NAME_stride, in units of four elements. Raises ValueError unless both are
        multiples of four.
        """
        if self.offset % 4 or self.stride % 4:
            raise ValueError(
                f"offset {self.offset} and row stride {self.stride} must be multiples of 4 for this kernel"
            )
        return {f"{name}_offset": self.offset // 4, f"{name}_stride": self.stride // 4}


@dataclass(frozen=True)
class Case:
    """One row of an op's case table.

    make(rng) -> inputs (numpy arrays, `PackedMatrix`es or None), attrs: the op's attributes.
    |device - twin| <= atol + rtol * |twin| must hold for every element.
    """

    label: str
    make: Callable[[np.random.Generator], list]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    atol: float = 1e-5
    rtol: float = 1e-5


@dataclass(frozen=True)
class Op:
    """reference(*inputs, **attrs) -> array or tuple of arrays; dispatch(device, inputs, outputs, **attrs) ->
    list[Dispatch].

    signature: valid inputs and attributes; for others kernels compute nonsense or read past their inputs.
    in_place: {output: input} that share storage.
    variants(device, inputs, **attrs) -> keyword arguments of `dispatch`, one set per kernel that can do this job, for
        `vkbackend check`.
    candidates(device, inputs, **attrs) -> the variants worth measuring for it; all must give the same bits.
    job(inputs, **attrs) -> a name for what the fastest candidate depends on (see `tuning`).
    requires(**attrs) -> device features that every kernel needs.
    scratch(inputs, **attrs) -> (shape, dtype) of each buffer that `dispatch` takes after the outputs.
    host_scratch(inputs, **attrs) -> bytes that `reference` allocates for a while, if they can be many.
    canonical(outputs) -> the outputs in a defined order, for kernels whose order is undefined.
    """

    name: str
    reference: Callable
    dispatch: Callable[..., list[Dispatch]]
    cases: tuple[Case, ...]
    signature: Signature
    in_place: dict[int, int] = field(default_factory=dict)
    variants: Callable[..., list[dict]] = lambda device, inputs, **attrs: [{}]
    candidates: Callable[..., list[dict]] = lambda device, inputs, **attrs: []
    job: Callable[..., str] = lambda inputs, **attrs: ""
    requires: Callable[..., Iterable[str]] = lambda **attrs: ()
    scratch: Callable[..., Scratch] = lambda inputs, **attrs: []
    host_scratch: Callable[..., int] = lambda inputs, **attrs: 0
    canonical: Callable[[tuple[np.ndarray, ...]], tuple[np.ndarray, ...]] = lambda outputs: outputs

    def record(
        self, device: Device, inputs: Sequence, outputs: Sequence[TensorView], **attrs: object
    ) -> list[Dispatch]:
        """Check the inputs against the signature, then `dispatch`. Raises ValueError with the argument, its actual
        dtype and shape, and the expected ones.
        """
        self.signature.check(self.name, inputs, attrs)
        return self.dispatch(device, inputs, outputs, **attrs)


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def token_ranges(num_tokens: int, flops: int) -> Iterator[tuple[int, int, int]]:
    """(first token, number of tokens, operations) of each dispatch that an op on many tokens is cut into. flops: of a
    token.

    The numbers are powers of two, except for the last, so that tiles of tokens are full.
    """
    most = 1 << max(int(MOST_FLOPS // max(flops, 1)), 1).bit_length() - 1
    for first in range(0, num_tokens, most):
        count = min(most, num_tokens - first)
        yield first, count, count * flops


def elementwise_variant(device: Device, name: str) -> str:
    """The variant of a kernel that uses no subgroup operation."""
    return f"{name}_{'texel' if device.flavor == 'texel' else 'base'}"


def group_variant(
    device: Device, name: str, flavors: Sequence[str] = ("base", "subgroup", "texel"), lanes: int = 0
) -> tuple[str, int, int]:
    """Variant of a kernel in which LANES invocations share a row, LANES, and the required subgroup size (0: any).

    lanes: LANES of the flavors with subgroups; 0: `device.lanes`.
    """
    flavor = device.flavor
    if flavor not in flavors:
        flavor = "subgroup" if flavor == "texel" else "base"
    if flavor == "base":
        return f"{name}_base", BASE_LANES, 0
    lanes = lanes or device.lanes
    return f"{name}_{flavor}", lanes, lanes


def head_variant(device: Device, name: str) -> tuple[str, int, int]:
    """`group_variant` for the ops on heads. All of them take the same lanes, so that their results have the same
    bits.
    """
    return group_variant(device, name, lanes=device.info.supported_lanes(device.lane_rule.head_lanes or device.lanes))
