"""A weight of one dimension, such as a norm or a bias."""

from dataclasses import dataclass

import numpy as np

from ..device.buffers import Buffer


@dataclass(eq=False)
class Vector:
    """A small array, f32 or i32; `buffer` is its copy on a device, None on the CPU path."""

    name: str
    values: np.ndarray
    buffer: Buffer | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape
