"""The declarations of a SPIR-V module as data: entry points, bindings, push constants, specialization constants,
required capabilities. `spirv_reader.read` makes a `Module` from a module's words.
"""

from dataclasses import dataclass
from functools import cached_property

DEEPEST_TYPE = 32  # nesting of types; far more than GLSL compilers produce
COMPUTE = 5  # execution model GLCompute

# Storage classes.
UNIFORM_CONSTANT = 0
UNIFORM = 2
WORKGROUP = 4
PUSH_CONSTANT = 9
STORAGE_BUFFER = 12
GLOBAL_STORAGE = (UNIFORM_CONSTANT, UNIFORM, WORKGROUP, PUSH_CONSTANT, STORAGE_BUFFER)


@dataclass(frozen=True)
class Member:
    """A member of a struct. offset: bytes from its start, None if the module declares none. is_row_major,
    matrix_stride: of matrices in it.
    """

    name: str
    type: "Type"
    offset: int | None
    matrix_stride: int = 0
    is_row_major: bool = False
    is_readonly: bool = False


@dataclass(frozen=True)
class Type:
    """kind: "bool", "int", "uint", "float", "vector", "matrix", "array", "runtime array", "struct", "pointer",
    "image", "texel buffer", "sampler", "sampled image" or "acceleration structure". bits: of a scalar. count: of
    elements, None if unknown before the module is specialized. stride: bytes between elements of an array, 0 if the
    module declares none.
    """

    kind: str
    bits: int = 0
    element: "Type | None" = None
    count: int | None = None
    stride: int = 0
    members: tuple[Member, ...] = ()
    is_block: bool = False
    is_buffer_block: bool = False

    @property
    def is_scalar(self) -> bool:
        """Whether it is a single bool, integer or float."""
        return self.kind in ("bool", "int", "uint", "float")

    @property
    def elements(self) -> tuple["Type", int]:
        """Element type and count of a vector, matrix or array; an array of unknown size counts 0."""
        assert self.element is not None, f"{self.kind} has no elements"
        return self.element, self.count or 0

    @cached_property
    def num_bytes(self) -> int:
        """Without the elements of a runtime array; 0 if unknown."""
        if self.is_scalar:
            return max(self.bits // 8, 1) if self.kind != "bool" else 4
        if self.kind in ("vector", "matrix", "array"):
            element, count = self.elements
            return count * (self.stride or element.num_bytes)
        if self.kind == "struct":
            ends = [0]
            at = 0
            for member in self.members:
                at = (at if member.offset is None else member.offset) + member_bytes(member)
                ends.append(at)
            return max(ends)
        return 8 if self.kind == "pointer" else 0


def member_bytes(member: Member) -> int:
    """Bytes of a member, with the stride of its matrix."""
    kind = member.type
    if kind.kind == "matrix" and member.matrix_stride:
        column, num_columns = kind.elements
        scalar, num_rows = column.elements
        lines, line_length = (num_rows, num_columns) if member.is_row_major else (num_columns, num_rows)
        return (lines - 1) * member.matrix_stride + line_length * scalar.num_bytes
    return kind.num_bytes


@dataclass(frozen=True)
class Variable:
    """A global variable. set, binding: None if the module declares none. storage: number of its storage class.
    is_readonly: the shader never writes it.
    """

    name: str
    type: Type
    storage: int
    set: int | None
    binding: int | None
    is_readonly: bool


@dataclass(frozen=True)
class EntryPoint:
    """model: number of its stage, COMPUTE for a compute shader."""

    name: str
    model: int


@dataclass(frozen=True)
class SpecConstant:
    """default: the bits of its default value."""

    name: str
    type: Type
    default: int


@dataclass(frozen=True)
class Module:
    """version: (major, minor). local_size: three sizes, each a number, or the id of the specialization constant that
    holds it as ("constant", id); empty if the module declares none. capabilities: numbers. constants: specialization
    constants by their id.
    """

    version: tuple[int, int]
    entry_points: tuple[EntryPoint, ...]
    local_size: tuple[int | tuple[str, int], ...]
    capabilities: tuple[int, ...]
    extensions: tuple[str, ...]
    variables: tuple[Variable, ...]
    constants: dict[int, SpecConstant]

    @property
    def bound(self) -> list[Variable]:
        """Descriptors, sorted by set and binding."""
        found = [each for each in self.variables if each.storage in (UNIFORM_CONSTANT, UNIFORM, STORAGE_BUFFER)]
        return sorted(found, key=lambda each: (each.set or 0, each.binding or 0))

    @property
    def push(self) -> Variable | None:
        """The push-constant block."""
        return next((each for each in self.variables if each.storage == PUSH_CONSTANT), None)

    def sizes(self, given: dict[int, int]) -> tuple[int, ...]:
        """The local size for these values of specialization constants."""
        return tuple(
            given.get(size[1], self.constants[size[1]].default) if isinstance(size, tuple) else size
            for size in self.local_size
        )
