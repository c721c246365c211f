"""Weights by their GGUF names, as layers ask for them.

In: an open `GGUFFile`. Out: layers made of `PackedMatrix` (still quantized, views of the file) and `Vector` (norms,
biases, frequency factors; f32). `upload.py` then copies them to a device.
"""

import math
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import zip_longest
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType

from ..errors import GGUFError, UnsupportedModel
from ..gguf.quants import FORMATS, QuantFormat
from ..gguf.reader import VISION_PREFIXES, GGUFFile, TensorInfo
from ..graph.vector import Vector
from ..ops.packed import PackedMatrix
from .adapter import AdapterFile, Pair, Sizes
from .axes import Axis, Size, Stack, axis_of
from .layers import Embedding, LayerNorm, Linear, LowRank, RMSNorm


def loaded_tensors(gguf: GGUFFile) -> dict[str, TensorInfo]:
    """The tensors of a file that its model loads, by name: all but those of the image encoder."""
    return {name: info for name, info in gguf.tensors.items() if not name.startswith(VISION_PREFIXES)}


def check_types(gguf: GGUFFile) -> None:
    """Raises UnsupportedModel if a tensor has a type without kernels. Checked before anything else: such a file cannot
    be used, whatever else is wrong with it.
    """
    for name, info in loaded_tensors(gguf).items():
        if info.type not in FORMATS:
            raise UnsupportedModel(
                f"{gguf.path}: {name} is {info.type.name}; readable here: {', '.join(kind.name for kind in FORMATS)}"
            )


def check_shape(path: Path, info: TensorInfo, expected: tuple[int | None, ...]) -> None:
    """Raises GGUFError if a tensor has another shape; None in `expected` stands for any size."""
    if len(info.shape) != len(expected) or any(want not in (None, have) for have, want in zip(info.shape, expected)):
        wanted = ", ".join("any" if want is None else str(want) for want in expected)
        raise GGUFError(
            f"{path}: {info.name} has shape {info.shape}, the metadata says ({wanted}); the file is damaged or "
            f"badly converted"
        )


class Weights:
    """Looks up tensors under a prefix: `w.block(3).norm("attn_norm", eps, width)` is "blk.3.attn_norm.weight".

    adapters: change weights of the file. made: every weight made so far, in order. factors: those that are multiplied
    by; an embedding is only read by rows.
    """

    def __init__(self, gguf: GGUFFile, adapters: Sequence[AdapterFile] = ()):
        self.gguf = gguf
        self.adapters = adapters
        self.prefix = ""
        self.layer = -1
        self.made: list[PackedMatrix | Vector] = []
        self.factors: list[PackedMatrix] = []
        self._vectors: dict[str, Vector] = {}  # of the file; layers share them
        self._matrices: dict[str, PackedMatrix] = {}  # likewise: a tied output is the embedding
        self._used: set[str] = set()  # names of tensors
        self._adapted: set[str] = set()  # names of weights that adapters change

    def block(self, layer: int) -> "Weights":
        """The same weights, looked up under "blk.<layer>."."""
        view = copy(self)
        view.prefix = f"blk.{layer}."
        view.layer = layer
        return view

    def check_all_used(self) -> None:
        """Raises UnsupportedModel if no layer uses some tensor, such as the bias of a norm: without it, the model would
        give different answers. The image encoder may be left out.
        """
        unused = [name for name in loaded_tensors(self.gguf) if name not in self._used]
        if unused:
            named = ", ".join(unused[:4]) + (f" and {len(unused) - 4} more" if len(unused) > 4 else "")
            raise UnsupportedModel(
                f"{self.gguf.path} has tensors that {self.gguf.metadata.get('general.architecture', str)} models do "
                f"not use here ({named}), so its answers would be wrong; readable here: models without them (no "
                f"experts)"
            )
        for adapter in self.adapters:
            adapter.check_used(self._adapted, self.gguf.tensors)

    def has(self, name: str) -> bool:
        """Whether the file has the weight `name`."""
        return f"{self.prefix}{name}.weight" in self.gguf.tensors

    def norm(self, name: str, eps: float, size: Size, factor: float = 1.0) -> RMSNorm:
        """The RMS norm over `size` elements with the weight `name`, times `factor`. Raises GGUFError as `vector`
        does.
        """
        axis = axis_of(size)
        share = axis.size / axis.total  # the kernel divides the sum of squares by all elements, zeros included
        return RMSNorm(self.vector(name, axis, factor * share**0.5), eps * share, name)

    def layer_norm(self, name: str, eps: float, size: Size, factor: float = 1.0) -> LayerNorm:
        """The layer norm over `size` elements, or over each of its groups, with the weight `name` and its bias if it
        has one, both times `factor`. Raises GGUFError as `vector` does.
        """
        axis = axis_of(size)
        groups = axis.groups if isinstance(axis, Axis) else 1
        padding = (axis.total - axis.size) // groups
        bias = self.bias([name], [axis], factor)
        return LayerNorm(self.vector(name, axis, factor), bias, eps, padding, name)

    def vector(self, name: str, size: Size, factor: float = 1.0) -> Vector:
        """The weight `name`, of `size` elements, times `factor`. Raises GGUFError if it is missing or has another
        shape.
        """
        axis = axis_of(size)
        info = self._grouped(f"{self.prefix}{name}.weight", axis)
        if info.name not in self._vectors:
            values = axis.pad(self._values(info))
            self._vectors[info.name] = self.constant(info.name, values if factor == 1 else values * np.float32(factor))
        return self._vectors[info.name]

    def optional_vector(self, name: str, size: Size) -> Vector | None:
        """`vector`, or None if the file has no such weight."""
        return self.vector(name, size) if self.has(name) else None

    def bias(self, names: Sequence[str], rows: Sequence[Size], factor: float = 1.0) -> Vector | None:
        """The biases of the weights `names`, which have `rows` rows each, as one vector, times `factor`: zeros for
        weights without one, None if no weight has one. Raises GGUFError if a bias has another shape.
        """
        full = [f"{self.prefix}{name}.bias" for name in names]
        if not any(name in self.gguf.tensors for name in full):
            return None
        axes = [axis_of(size) for size in rows]
        values = [
            axis.pad(self._values(self._grouped(name, axis))) * np.float32(factor)
            if name in self.gguf.tensors
            else np.zeros(axis.total, np.float32)
            for name, axis in zip(full, axes)
        ]
        return self.constant("+".join(full), np.concatenate(values))

    def constant(self, name: str, values: np.ndarray) -> Vector:
        """A vector with these values, which need not be in the file. It goes to the device like a weight."""
        vector = Vector(name, values)
        self.made.append(vector)
        return vector

    def matrix(self, *names: str, rows: Sequence[Size] = (), columns: Size, gated: bool = False) -> PackedMatrix:
        """The weights `names`, of the same format and with `columns` columns, stacked into one. rows: of each; empty:
        as many as it has. gated: the first is the gate of the second. Raises GGUFError if one is missing or has another
        shape.
        """
        key = "+".join(f"{self.prefix}{name}.weight" for name in names)
        if key not in self._matrices:
            infos = [
                self._tensor(f"{self.prefix}{name}.weight", (size and axis_of(size).size, axis_of(columns).size))
                for name, size in zip_longest(names, rows)
            ]
            axes = [axis_of(info.shape[0] if size is None else size) for info, size in zip_longest(infos, rows)]
            padded = [_padded(self.gguf, info, axis, axis_of(columns)) for info, axis in zip(infos, axes)]
            shape = sum(axis.total for axis in axes), axis_of(columns).total
            self._matrices[key] = PackedMatrix(key, shape, padded[0][0], [raw for _, raw in padded], gated)
            self.made.append(self._matrices[key])
        return self._matrices[key]

    def linear(self, *names: str, rows: Sequence[Size], columns: Size, name: str = "", fallback: str = "") -> Linear:
        """A `Linear` over the weights `names`, of shapes (rows[i], columns), and their biases.

        Neighbours of the same format are stacked, so that they take one dispatch. fallback: replaces the first weight
        if the file does not have it (a tied output). Raises GGUFError if a weight is missing or has another shape.
        """
        weights = (fallback,) if fallback and not self.has(names[0]) else names
        stacks: list[list[int]] = []  # indices into names
        for at, count in enumerate(rows):
            info = self._tensor(f"{self.prefix}{weights[at]}.weight", (axis_of(count).size, axis_of(columns).size))
            if stacks and info.type == self._type(weights[at - 1]):
                stacks[-1].append(at)
            else:
                stacks.append([at])
        return Linear(
            [
                self._factor(*(weights[at] for at in stack), rows=[rows[at] for at in stack], columns=columns)
                for stack in stacks
            ],
            [self.bias([names[at] for at in stack], [rows[at] for at in stack]) for stack in stacks],
            name or names[0],
            self._low_ranks(names, rows, columns),
        )

    def gated(self, gate: str, up: str, *, rows: Size, columns: Size) -> PackedMatrix | None:
        """Two weights of shape (rows, columns) as one gated matrix; None if their formats differ, or an adapter changes
        one of them. Without the weight `gate`, `up` holds the rows of both, those of the gate first. Raises GGUFError.
        """
        axis = axis_of(rows)
        if self._is_adapted(gate) or self._is_adapted(up):
            return None  # what an adapter adds comes before the gate
        if not self.has(gate):
            info = self._tensor(f"{self.prefix}{up}.weight", (2 * axis.size, axis_of(columns).size))
            kind, raw = _padded(self.gguf, info, Stack((axis, axis)), axis_of(columns))
            shape = 2 * axis.total, axis_of(columns).total
            halves = [raw[: axis.total], raw[axis.total :]]
            return self._made_factor(PackedMatrix(info.name, shape, kind, halves, True))
        for name in (gate, up):
            self._tensor(f"{self.prefix}{name}.weight", (axis.size, axis_of(columns).size))
        if self._type(gate) != self._type(up):
            return None
        return self._factor(gate, up, rows=(rows, rows), columns=columns, gated=True)

    def experts(self, *names: str, count: int, rows: Axis, columns: Size, gated: bool = False) -> PackedMatrix:
        """The weights `names` of shape (count, rows, columns), of one format: the rows of all experts one after the
        other. gated: the first is the gate of the second. Raises GGUFError if one is missing or has another shape.
        """
        of_all = Axis(count, rows.places, rows.total)
        key = "+".join(f"{self.prefix}{name}.weight" for name in names)
        shape = count, rows.size, axis_of(columns).size
        infos = [self._tensor(f"{self.prefix}{name}.weight", shape) for name in names]
        padded = [_padded(self.gguf, info, of_all, axis_of(columns)) for info in infos]
        total = len(names) * of_all.total, axis_of(columns).total
        return self._made_factor(PackedMatrix(key, total, padded[0][0], [raw for _, raw in padded], gated, count))

    def row(self, name: str, columns: Size) -> Linear:
        """A product with the weight `name` of one dimension: (T, columns) -> (T, 1). Raises GGUFError as `vector`."""
        info = self._tensor(f"{self.prefix}{name}.weight", (axis_of(columns).size,))
        values = axis_of(columns).pad(self._values(info))
        weight = self._made_factor(PackedMatrix.from_array(values[None], info.name))
        return Linear([weight], [None], name)

    def info(self, name: str) -> TensorInfo | None:
        """The weight `name` as in the file, which may lack it."""
        return self.gguf.tensors.get(f"{self.prefix}{name}.weight")

    def skip(self) -> None:
        """Count all tensors under the prefix as used, and what adapters add to them as added: those of a block that the
        model does without.
        """
        names = [name for name in self.gguf.tensors if name.startswith(self.prefix)]
        self._used.update(names)
        self._adapted.update(names)

    def embedding(self, name: str, *, columns: Size, scale: float) -> Embedding:
        """The rows of the weight `name`, times `scale`. Raises GGUFError as `matrix` does."""
        weight = self.matrix(name, columns=columns)
        full, low_ranks = f"{self.prefix}{name}.weight", []
        for adapter, pair in self._pairs(full):
            rank = Axis.of(pair.rank, 32)
            a, b = (axis_of(weight.shape[0]), rank), (axis_of(columns), rank)
            low_ranks.append(self._low_rank(full, adapter, pair, a, b))
        return Embedding(weight, scale, low_ranks)

    def _low_ranks(self, names: Sequence[str], rows: Sequence[Size], columns: Size) -> list[LowRank]:
        """What adapters add to the product of the weights `names`, stacked."""
        low_ranks, first = [], 0
        for name, size in zip(names, rows):
            full, axis = f"{self.prefix}{name}.weight", axis_of(size)
            for adapter, pair in self._pairs(full):
                rank = Axis.of(pair.rank, 32)
                a, b = (rank, axis_of(columns)), (axis, rank)
                low_ranks.append(self._low_rank(full, adapter, pair, a, b, first))
            first += axis.total
        return low_ranks

    def _pairs(self, full: str) -> Iterator[tuple[AdapterFile, Pair]]:
        """The pairs that change the weight `full`, which count as used."""
        self._adapted.add(full)
        return ((adapter, adapter.pairs[full]) for adapter in self.adapters if full in adapter.pairs)

    def _low_rank(self, full: str, adapter: AdapterFile, pair: Pair, a: Sizes, b: Sizes, first: int = 0) -> LowRank:
        """The pair for the weight `full`. a, b: rows and columns of the matrices. Raises GGUFError for other shapes."""
        adapter.check_shapes(full, a, b)
        a_matrix, b_matrix = (
            self._made_factor(PackedMatrix(info.name, (rows.total, columns.total), kind, [raw]))
            for info, (rows, columns) in ((pair.a, a), (pair.b, b))
            for kind, raw in [_padded(adapter.gguf, info, rows, columns)]
        )
        return LowRank(a_matrix, b_matrix, pair.scale, first)

    def _is_adapted(self, name: str) -> bool:
        """Whether an adapter changes the weight `name`."""
        return any(f"{self.prefix}{name}.weight" in adapter.pairs for adapter in self.adapters)

    def dequantized(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The weight `name` as an f32 array. Raises GGUFError if it is missing or has another shape."""
        info = self._tensor(f"{self.prefix}{name}.weight", shape)
        raw = self.gguf.data(info.name).reshape(math.prod(shape[:-1]), -1)
        return _format(info).dequantize(raw).reshape(shape).astype(np.float32)

    def factor_from_array(self, name: str, array: np.ndarray) -> PackedMatrix:
        """An f32 matrix that is not in the file. name: of it, for messages and to find its layer."""
        return self._made_factor(PackedMatrix.from_array(array, f"{self.prefix}{name}"))

    def factors_of_groups(
        self, name: str, shape: tuple[int, ...], groups: int, rows: Axis, columns: Axis, *, first: int = 0
    ) -> list[PackedMatrix]:
        """A matrix (rows, columns) of each group of rows of the weight `name`, whose groups have equally many.

        shape: of the tensor. first: rows at the beginning of each group that are left out. Raises GGUFError if the
        weight is missing or has another shape.
        """
        info = self._tensor(f"{self.prefix}{name}.weight", shape)
        raw = self.gguf.data(info.name).reshape(groups, math.prod(shape[:-1]) // groups, -1)[:, first:]
        padded = [_padded_rows(_format(info), each, rows, columns) for each in raw]
        return [
            self._made_factor(PackedMatrix(f"{info.name}.{at}", (rows.total, columns.total), kind, [each]))
            for at, (kind, each) in enumerate(padded)
        ]

    def _made_factor(self, weight: PackedMatrix) -> PackedMatrix:
        self.made.append(weight)
        self.factors.append(weight)
        return weight

    def _factor(self, *names: str, rows: Sequence[Size], columns: Size, gated: bool = False) -> PackedMatrix:
        weight = self.matrix(*names, rows=rows, columns=columns, gated=gated)
        self.factors.append(weight)
        return weight

    def _tensor(self, full: str, shape: tuple[int | None, ...]) -> TensorInfo:
        """The tensor `full`, which counts as used. Raises GGUFError if it is missing or has another shape."""
        info = self.gguf.tensors.get(full)
        if info is None:
            raise GGUFError(
                f"{self.gguf.path}: tensor {full} is missing; the file is incomplete or of another architecture than "
                f"it says"
            )
        check_shape(self.gguf.path, info, shape)
        self._used.add(full)
        return info

    def _grouped(self, full: str, axis: Axis | Stack) -> TensorInfo:
        """`_tensor` of one element for each of `axis`, whose groups may be a dimension of their own."""
        info = self.gguf.tensors.get(full)
        if info is not None and len(info.shape) == 2 and isinstance(axis, Axis):
            return self._tensor(full, (axis.groups, len(axis.places)))
        return self._tensor(full, (axis.size,))

    def _values(self, info: TensorInfo) -> np.ndarray:
        """The elements of a tensor, f32."""
        return _format(info).dequantize(self.gguf.data(info.name)[None, :])[0].astype(np.float32)

    def _type(self, name: str) -> GGMLQuantizationType:
        return self.gguf.tensors[f"{self.prefix}{name}.weight"].type


def _padded(
    gguf: GGUFFile, info: TensorInfo, rows: Axis | Stack, columns: Axis | Stack
) -> tuple[QuantFormat, np.ndarray]:
    """The format and rows of a matrix with its zeros; float32 if its blocks of columns would not stay whole."""
    return _padded_rows(_format(info), gguf.data(info.name).reshape(math.prod(info.shape[:-1]), -1), rows, columns)


def _padded_rows(
    kind: QuantFormat, raw: np.ndarray, rows: Axis | Stack, columns: Axis | Stack
) -> tuple[QuantFormat, np.ndarray]:
    """`_padded` for rows of a format."""
    if not columns.is_plain:
        if kind.block_size > 1:
            raw = kind.dequantize(raw).view(np.uint8)
            kind = FORMATS[GGMLQuantizationType.F32]
        elements = raw.reshape(len(raw), columns.size, -1)
        raw = columns.pad(elements, 1).reshape(len(raw), -1)
    return kind, rows.pad(raw)


def _format(info: TensorInfo) -> QuantFormat:
    return FORMATS[info.type]  # `check_types` made sure that it is there
