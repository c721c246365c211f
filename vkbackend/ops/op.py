"""What an op is: a contract, a numpy twin, dispatches, and the cases that hold the two together.

In: `TensorView`s (ranges of device memory with a shape) or, for the twin, numpy arrays. Out: `Dispatch`es. An op
knows nothing of graphs or models.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..device.buffers import Buffer
from .signature import Signature

BASE_LANES = 32  # workgroup size of the base variants, which need no subgroup feature


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
        return self.row_stride or int(np.prod(self.shape[1:]))

    @property
    def row_elements(self) -> int:
        return int(np.prod(self.shape[1:]))

    def elements(self, name: str) -> dict[str, int]:
        """Push constants NAME_offset and NAME_stride, in elements."""
        return {f"{name}_offset": self.offset, f"{name}_stride": self.stride}

    def fours(self, name: str) -> dict[str, int]:
        """Push constants NAME_offset and NAME_stride, in units of four elements. Raises ValueError where they are
        not whole.
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
    make: Callable
    attrs: dict = field(default_factory=dict)
    atol: float = 1e-5
    rtol: float = 1e-5


@dataclass(frozen=True)
class Op:
    """reference(*inputs, **attrs) -> array or tuple of arrays; dispatch(device, inputs, outputs, **attrs) ->
    list[Dispatch].

    signature: what inputs and attributes may be; kernels compute nonsense, or read past their inputs, for others.
    in_place: {output: input} whose storage is shared. variants(device, inputs, **attrs) -> keyword arguments of
    `dispatch`, one for each kernel that could do this job, for `check`. candidates(device, inputs, **attrs): those
    worth measuring for it, which must all give the same bits; job(inputs, **attrs): a name for what the fastest
    depends on (see `tuning`). requires(**attrs) -> device features without which no kernel can do it.
    scratch(inputs, **attrs) -> (shape, dtype) of each piece of memory that `dispatch` wants after the outputs.
    canonical(outputs) -> outputs whose order is defined, where the kernel's is not.
    """

    name: str
    reference: Callable
    dispatch: Callable
    cases: tuple[Case, ...]
    signature: Signature
    in_place: dict = field(default_factory=dict)
    variants: Callable = lambda device, inputs, **attrs: [{}]
    candidates: Callable = lambda device, inputs, **attrs: []
    job: Callable = lambda inputs, **attrs: ""
    requires: Callable = lambda **attrs: ()
    scratch: Callable = lambda inputs, **attrs: []
    canonical: Callable = lambda outputs: outputs

    def record(self, device, inputs, outputs, **attrs) -> list:
        """`dispatch` for inputs that the signature allows. Raises ValueError with the argument, what it is and what
        it must be.
        """
        self.signature.check(self.name, inputs, attrs)
        return self.dispatch(device, inputs, outputs, **attrs)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def elementwise_variant(device, name: str) -> str:
    """The variant of a kernel that uses no subgroup operation."""
    return f"{name}_{'texel' if device.flavor == 'texel' else 'base'}"


def group_variant(device, name: str, flavors=("base", "subgroup", "texel")) -> tuple[str, int, int]:
    """-> variant of a kernel in which LANES invocations work on a row, LANES, required subgroup size (0: any)."""
    flavor = device.flavor
    if flavor not in flavors:
        flavor = "subgroup" if flavor == "texel" else "base"
    if flavor == "base":
        return f"{name}_base", BASE_LANES, 0
    return f"{name}_{flavor}", device.lanes, device.lanes
