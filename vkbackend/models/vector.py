"""A weight of one dimension: a norm or a bias."""

from dataclasses import dataclass

import numpy as np


@dataclass(eq=False)
class Vector:
    """A small f32 array, and its device buffer where there is a device."""

    name: str
    values: np.ndarray
    buffer: object = None

    @property
    def shape(self):
        return self.values.shape
