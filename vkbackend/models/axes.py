"""Sizes that kernels do not take, such as rows of 48 or heads of 6, padded with zeros where weights are read.

In: an array of the file. Out: the same with zeros between its elements, so that every product, norm and score stays
what it was. A model whose sizes fit is read as it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Axis:
    """A dimension of weights: groups of elements, such as heads, each with zeros among and after its elements.

    places: where the elements of a group are; a range from 0 if they are together, since a damaged file may name a size
    that no memory holds. padded: elements of a group with its zeros. end: zeros after all groups.
    """

    groups: int
    places: Sequence[int]
    padded: int
    end: int = 0

    @classmethod
    def of(cls, size: int, multiple: int = 1) -> "Axis":
        """`size` elements, and zeros up to a multiple of `multiple`."""
        return cls(1, range(size), size, -size % multiple)

    @property
    def size(self) -> int:
        """Elements in the file."""
        return self.groups * len(self.places)

    @property
    def total(self) -> int:
        """Elements with all zeros."""
        return self.groups * self.padded + self.end

    @property
    def is_plain(self) -> bool:
        """Whether nothing is added or moved."""
        return self.total == self.size and (isinstance(self.places, range) or self.places == tuple(range(self.padded)))

    def pad(self, array: np.ndarray, axis: int = 0) -> np.ndarray:
        """`array` with zeros along `axis`; itself if the axis is plain."""
        if self.is_plain:
            return array
        shape = list(array.shape)
        shape[axis] = self.total
        found = np.zeros(shape, array.dtype)
        where = (np.arange(self.groups)[:, None] * self.padded + np.array(self.places)).ravel()
        found[(slice(None),) * axis + (where,)] = array
        return found


@dataclass(frozen=True)
class Stack:
    """Several axes one after the other, as in a matrix that holds queries, keys and values."""

    axes: "tuple[Axis | Stack, ...]"

    @property
    def size(self) -> int:
        """Elements in the file."""
        return sum(axis.size for axis in self.axes)

    @property
    def total(self) -> int:
        """Elements with all zeros."""
        return sum(axis.total for axis in self.axes)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is added or moved."""
        return all(axis.is_plain for axis in self.axes)

    def pad(self, array: np.ndarray, axis: int = 0) -> np.ndarray:
        """`array` with zeros along `axis`; itself if all axes are plain."""
        if self.is_plain:
            return array
        parts = np.split(array, np.cumsum([each.size for each in self.axes])[:-1], axis)
        return np.concatenate([each.pad(part, axis) for each, part in zip(self.axes, parts)], axis)


Size = int | Axis | Stack


def round_up(size: int, multiple: int) -> int:
    """The least multiple that is not below `size`."""
    return size + -size % multiple


def padded_head(size: int, num_heads: int, least: int) -> int:
    """Elements of a head with zeros, of which it needs `size`: a multiple of `least`, and of 32 in all heads."""
    return round_up(size, max(least, 32 // math.gcd(32, num_heads)))


def axis_of(size: Size) -> Axis | Stack:
    """A plain number as an axis without zeros."""
    return Axis(1, range(size), size) if isinstance(size, int) else size
