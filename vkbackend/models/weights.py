"""GGUF tensors by name -> weights that a model's layers hold, placed on a device or kept as numpy arrays.

In: an open `GGUFFile` and a placer (`placement.DevicePlacer`, or None for the twins). Out: `PackedMatrix` (still
quantized) and `Vector` (norms, biases, frequency factors; f32).
"""

from copy import copy

import numpy as np

from ..errors import GGUFError, UnsupportedModel
from ..gguf.quants import FORMATS, QuantFormat
from ..gguf.reader import GGUFFile, TensorInfo
from ..ops.packed import PackedMatrix
from .vector import Vector

VISION_PREFIXES = ("v.", "mm.")  # the image part of a model that also reads text, which it does without


def loaded_tensors(gguf: GGUFFile) -> dict[str, TensorInfo]:
    """The tensors of a file that its model loads, by name: all but those of a vision part."""
    return {name: info for name, info in gguf.tensors.items() if not name.startswith(VISION_PREFIXES)}


def check_types(gguf: GGUFFile) -> None:
    """Raises UnsupportedModel for a tensor of a type that has no kernel: nothing else that is wrong with such a file
    helps its user.
    """
    for name, info in loaded_tensors(gguf).items():
        if info.type not in FORMATS:
            raise UnsupportedModel(
                f"{gguf.path}: {name} is {info.type.name}; readable here: {', '.join(kind.name for kind in FORMATS)}"
            )


LARGEST = 1 << 24  # no hyperparameter is larger: what is would only be found out by running out of memory


def check_shape(path, name: str, shape: tuple[int, ...], expected: tuple[int | None, ...]) -> None:
    """expected: None stands for any size. Raises GGUFError where a tensor has another shape."""
    if len(shape) != len(expected) or any(want not in (None, have) for have, want in zip(shape, expected)):
        wanted = ", ".join("any" if want is None else str(want) for want in expected)
        raise GGUFError(
            f"{path}: {name} has shape {tuple(shape)}, the metadata ask for ({wanted}); the file is damaged or badly "
            f"converted"
        )


class Hyperparameters:
    """Typed look-ups under the architecture's prefix, with errors that name the key."""

    def __init__(self, gguf: GGUFFile):
        self.gguf, self.architecture = gguf, gguf.metadata.get("general.architecture", str)

    def int(self, key: str, default: int | None = None, least: int = 1) -> int:
        """Raises GGUFError where the key is missing, of another type, or not in least..LARGEST."""
        return self._within(key, self._get(key, int, default), least, LARGEST)

    def float(self, key: str, default: float | None = None, least: float = 0.0) -> float:
        """Raises GGUFError where the key is missing, of another type, or not a finite number from `least` on."""
        return float(self._within(key, self._get(key, float, default), least, np.finfo(np.float32).max))

    def num_layers(self) -> int:
        """`block_count`, of which the file must have the tensors: what is made for each layer costs. Raises
        GGUFError.
        """
        count = self.int("block_count")
        if f"blk.{count - 1}.attn_norm.weight" not in self.gguf.tensors:
            raise GGUFError(
                f"{self.gguf.path}: tensor blk.{count - 1}.attn_norm.weight is missing, and the metadata say that "
                f"there are {count} layers; "
                "the file is incomplete or badly converted"
            )
        return count

    def check_shapes(self, *, width: int, feed_forward: int, q_width: int, kv_width: int) -> None:
        """Compare sizes with the tensors of the first layer, before anything is made of these sizes. Raises
        GGUFError.
        """
        for name, shape in (
            ("token_embd", (None, width)),
            ("blk.0.attn_q", (q_width, width)),
            ("blk.0.attn_k", (kv_width, width)),
            ("blk.0.attn_v", (kv_width, width)),
            ("blk.0.attn_output", (width, q_width)),
            ("blk.0.ffn_gate", (feed_forward, width)),
        ):
            info = self.gguf.tensors.get(f"{name}.weight")
            if info:
                check_shape(self.gguf.path, info.name, info.shape, shape)

    def check_heads(self, num_heads: int, num_kv_heads: int, head_dim: int, num_rotated: int) -> None:
        """Raises GGUFError where these contradict each other, UnsupportedModel where the kernels do not do them."""
        if num_heads % num_kv_heads or num_rotated > head_dim or num_rotated % 2:
            raise GGUFError(
                f"{self.gguf.path} is damaged: {num_heads} heads of {head_dim}, of which {num_rotated} rotate, on "
                f"{num_kv_heads} key heads"
            )
        if head_dim % 8:
            raise UnsupportedModel(
                f"{self.gguf.path} has heads of {head_dim} elements; attention here needs a multiple of 8"
            )

    def _within(self, key, value, least, largest):
        if not least <= value <= largest:
            raise GGUFError(
                f"{self.gguf.path}: metadata key {self.architecture}.{key} is {value}; {least} to {largest} are "
                f"possible: "
                "the file is damaged or badly converted"
            )
        return value

    def _get(self, key, kind, default):
        full, metadata = f"{self.architecture}.{key}", self.gguf.metadata
        if full in metadata and kind in (int, float) and metadata.array_length(full) is not None:
            return self._of_all_layers(full, kind)
        return metadata.get(full, kind) if default is None else metadata.get(full, kind, default)

    def _of_all_layers(self, full: str, kind):
        """The number that an array holds for each layer. Raises GGUFError, UnsupportedModel where they are not all
        the same.
        """
        values, layers = (
            self.gguf.metadata.get(full, list),
            self.gguf.metadata.get(f"{self.architecture}.block_count", int),
        )
        wanted = "iu" if kind is int else "iuf"
        if not isinstance(values, np.ndarray) or values.dtype.kind not in wanted:
            raise GGUFError(
                f"{self.gguf.path}: metadata key {full} is an array that holds no {kind.__name__}s; the file is "
                f"damaged or badly converted"
            )
        if len(values) != layers:
            raise GGUFError(
                f"{self.gguf.path}: metadata key {full} has {len(values)} values for {layers} layers; the file is "
                f"damaged or badly converted"
            )
        if (values != values[0]).any():
            raise UnsupportedModel(
                f"{self.gguf.path}: {full} differs from layer to layer ({values.min()} to {values.max()}), which is "
                f"not implemented; "
                "use a model whose layers are all alike"
            )
        return kind(values[0])

    def check_dense(self) -> None:
        """Raises UnsupportedModel for a mixture of experts."""
        experts = self.int("expert_count", 0, least=0)
        if experts:
            raise UnsupportedModel(
                f"{self.gguf.path} is a mixture of {experts} experts, which is not implemented; use a dense "
                f"{self.architecture} model"
            )

    def linear_rope_scale(self) -> float:
        """Positions are multiplied by this (1 / factor of linear scaling); other scaling kinds are refused by name.

        Defaults as in llama.cpp's loader (llama_model::load_hparams): scaling is linear where only a factor is
        given, older files call the factor `rope.scale_linear`, and a factor of 0 scales nothing.
        """
        kind = self._get("rope.scaling.type", str, "linear")
        if kind == "none":
            return 1.0
        if kind != "linear":
            raise UnsupportedModel(
                f"{self.gguf.path}: rope scaling {kind!r} is not implemented; readable here: none, linear"
            )
        factor = self.float("rope.scaling.factor", self.float("rope.scale_linear", 0.0))
        return 1.0 / factor if factor else 1.0

    @property
    def vocab_size(self) -> int:
        return self.gguf.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in self.gguf.tensors else 0


class Weights:
    """Looks tensors up under a prefix: `w.block(3).norm("attn_norm", eps)` is "blk.3.attn_norm.weight"."""

    def __init__(self, gguf: GGUFFile, placer=None):
        self.gguf, self.placer, self.prefix, self.layer = gguf, placer, "", -1
        self.shared: dict[str, PackedMatrix | Vector] = {}  # by name: a tied embedding is placed once
        self.used: set[str] = set()  # names of the tensors that were taken so far
        self.factors: list[PackedMatrix] = []  # what is multiplied with; of an embedding only some rows are read

    def block(self, layer: int) -> "Weights":
        """The same weights, looked up under "blk.<layer>."."""
        view = copy(self)
        view.prefix, view.layer = f"blk.{layer}.", layer
        return view

    def check_all_used(self) -> None:
        """Raises UnsupportedModel where the file has tensors that no layer took (the bias of a norm, say): without
        them the model would say other things than it should. Those of a vision part may be left out.
        """
        left = [name for name in loaded_tensors(self.gguf) if name not in self.used]
        if left:
            named = ", ".join(left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
            raise UnsupportedModel(
                f"{self.gguf.path} has tensors that {self.gguf.metadata.get('general.architecture', str)} models do "
                f"not use here "
                f"({named}), so its answers would be wrong; readable here: models without them (no experts, adapters "
                f"or biases of norms)"
            )

    def norm(self, name: str, eps: float, size: int, required: bool = True):
        """An `RMSNorm` over `size` elements, None where the tensor is missing and not required."""
        from .layers import RMSNorm

        vector = self.vector(name, required, size)
        return vector and RMSNorm(vector, eps, name)

    def vector(self, name: str, required: bool = True, size: int | None = None) -> Vector | None:
        """A tensor of one dimension, of `size` elements where that is said."""
        full = f"{self.prefix}{name}.weight"
        if full not in self.gguf.tensors:
            if required:
                raise self._missing(full)
            return None
        check_shape(self.gguf.path, full, self.gguf.tensors[full].shape, (size,))
        self.used.add(full)
        if full not in self.shared:
            self.shared[full] = self.made(full, self._values(full))
        return self.shared[full]

    def bias(self, names: list[str], rows: list[int]) -> Vector | None:
        """The biases of the weights `names`, of so many rows each, as one vector, with zeros for weights that have
        none; None where none has one. Raises GGUFError where one is of another shape.
        """
        full = [f"{self.prefix}{name}.bias" for name in names]
        if not any(name in self.gguf.tensors for name in full):
            return None
        values = []
        for name, count in zip(full, rows):
            if name not in self.gguf.tensors:
                values.append(np.zeros(count, np.float32))
                continue
            check_shape(self.gguf.path, name, self.gguf.tensors[name].shape, (count,))
            self.used.add(name)
            values.append(self._values(name))
        return self.made("+".join(full), np.concatenate(values))

    def _values(self, full: str) -> np.ndarray:
        """A tensor of one dimension, f32."""
        return self._format(full).dequantize(self.gguf.data(full)[None, :])[0].astype(np.float32)

    def made(self, name: str, values: np.ndarray) -> Vector:
        """A constant that is not in the file, placed like one that is."""
        vector = Vector(name, values)
        if self.placer:
            self.placer.place_vector(vector)
        return vector

    def matrix(self, *names: str, columns: int | None = None, gated: bool = False) -> PackedMatrix:
        """The tensors `names`, of one format and K, as one placed weight; K must be `columns` where that is said.
        gated: a gate and what it opens.
        """
        full = [f"{self.prefix}{name}.weight" for name in names]
        key = "+".join(full)
        if key not in self.shared:
            for name in full:
                if name not in self.gguf.tensors:
                    raise self._missing(name)
            infos = [self.gguf.tensors[name] for name in full]
            for info in infos:
                check_shape(self.gguf.path, info.name, info.shape, (None, columns))
                self.used.add(info.name)
            rows, k = sum(info.shape[0] for info in infos), infos[0].shape[1]
            raws = [self.gguf.data(info.name).reshape(info.shape[0], -1) for info in infos]
            weight = PackedMatrix(key, (rows, k), self._format(full[0]), raws, gated)
            if k % 32:
                raise UnsupportedModel(
                    f"{self.gguf.path}: {key} has rows of {k} elements; matrices here need a multiple of 32"
                )
            if self.placer:
                self.placer.place_matrix(weight)
            self.shared[key] = weight
        return self.shared[key]

    def linear(self, *names: str, rows: tuple[int, ...], columns: int, name: str = "", fallback: str = ""):
        """A `Linear` over the tensors `names`, of shapes (rows[i], columns): neighbours of one format are stacked,
        so that they take one dispatch, with the biases that the file has for them. Raises GGUFError where a tensor
        is missing or of another shape.
        """
        from .layers import Linear

        name, bias_names = name or names[0], list(names)  # a tied output has its own bias
        if fallback and f"{self.prefix}{names[0]}.weight" not in self.gguf.tensors:
            names = (fallback,)
        stacks: list[list[str]] = []
        biases: list[Vector | None] = []
        for each, count in zip(names, rows):
            full = f"{self.prefix}{each}.weight"
            if full not in self.gguf.tensors:
                raise self._missing(full)
            check_shape(self.gguf.path, full, self.gguf.tensors[full].shape, (count, columns))
            previous = stacks and f"{self.prefix}{stacks[-1][-1]}.weight"
            if previous and self._alike(previous, full):
                stacks[-1].append(each)
            else:
                stacks.append([each])
        first = 0
        for stack in stacks:
            some = slice(first, first + len(stack))
            biases.append(self.bias(bias_names[some], list(rows[some])))
            first += len(stack)
        return Linear([self._factor(*stack) for stack in stacks], biases, name)

    def gated(self, gate: str, up: str, *, rows: int, columns: int) -> tuple[PackedMatrix, Vector | None] | None:
        """Two weights of shape (rows, columns) as one gated matrix, and their bias; None where their formats differ."""
        for name in (f"{self.prefix}{gate}.weight", f"{self.prefix}{up}.weight"):
            if name not in self.gguf.tensors:
                raise self._missing(name)
            check_shape(self.gguf.path, name, self.gguf.tensors[name].shape, (rows, columns))
        alike = self._alike(f"{self.prefix}{gate}.weight", f"{self.prefix}{up}.weight")
        if not alike:
            return None
        return self._factor(gate, up, columns=columns, gated=True), self.bias([gate, up], [rows, rows])

    def _factor(self, *names: str, **attrs) -> PackedMatrix:
        weight = self.matrix(*names, **attrs)
        self.factors.append(weight)
        return weight

    def _alike(self, one: str, other: str) -> bool:
        a, b = self.gguf.tensors[one], self.gguf.tensors[other]
        return a.type == b.type and a.shape[1:] == b.shape[1:]

    def _format(self, full: str) -> QuantFormat:
        return FORMATS[self.gguf.tensors[full].type]  # read() has checked it

    def _missing(self, full: str) -> GGUFError:
        return GGUFError(
            f"{self.gguf.path}: tensor {full} is missing; the file is incomplete or of another architecture than it "
            f"says"
        )
