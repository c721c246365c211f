"""Reads what a SPIR-V module says of itself: entry points, bindings, push constants, specialization constants,
needed capabilities.

In: the words of a module. Out: `Module`. Every index is checked: bytes that are no module raise DeviceError. Nothing
is executed and the module's functions are not looked at. Numbers:
https://registry.khronos.org/SPIR-V/specs/unified1/SPIRV.html
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

from ..errors import DeviceError

MAGIC = 0x07230203
MOST_IDS = 1 << 22  # Vulkan's own universal limit
DEEPEST_TYPE = 32  # of types within types; GLSL compilers come nowhere near
COMPUTE = 5  # execution model GLCompute
LOCAL_SIZE, LOCAL_SIZE_ID = 17, 38
WORKGROUP_SIZE = 25  # the built-in

UNIFORM_CONSTANT, UNIFORM, WORKGROUP, PUSH_CONSTANT, STORAGE_BUFFER = 0, 2, 4, 9, 12


class Op(IntEnum):
    NAME, MEMBER_NAME, EXTENSION, ENTRY_POINT, EXECUTION_MODE, CAPABILITY = 5, 6, 10, 15, 16, 17
    BOOL, INT, FLOAT, VECTOR, MATRIX, IMAGE, SAMPLER, SAMPLED_IMAGE, ARRAY, RUNTIME_ARRAY, STRUCT = (
        20,
        21,
        22,
        23,
        24,
        25,
        26,
        27,
        28,
        29,
        30,
    )
    POINTER = 32
    CONSTANT, CONSTANT_COMPOSITE = 43, 44
    SPEC_TRUE, SPEC_FALSE, SPEC_CONSTANT, SPEC_COMPOSITE = 48, 49, 50, 51
    VARIABLE, DECORATE, MEMBER_DECORATE, EXECUTION_MODE_ID = 59, 71, 72, 331
    ACCELERATION_STRUCTURE = 5341


class Decoration(IntEnum):
    SPEC_ID, BLOCK, BUFFER_BLOCK, ROW_MAJOR, ARRAY_STRIDE, MATRIX_STRIDE, BUILT_IN = 1, 2, 3, 4, 6, 7, 11
    NON_WRITABLE, BINDING, SET, OFFSET = 24, 33, 34, 35


TYPE_WORDS = {
    Op.BOOL: 2,
    Op.INT: 4,
    Op.FLOAT: 3,
    Op.VECTOR: 4,
    Op.MATRIX: 4,
    Op.ARRAY: 4,
    Op.RUNTIME_ARRAY: 3,
    Op.STRUCT: 2,
    Op.POINTER: 4,
    Op.IMAGE: 9,
    Op.SAMPLER: 2,
    Op.SAMPLED_IMAGE: 3,
    Op.ACCELERATION_STRUCTURE: 2,
}


@dataclass(frozen=True)
class Member:
    """Of a struct. offset: bytes from its start, None where the module says none. is_row_major, matrix_stride: of
    matrices in it.
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
    "image", "texel buffer", "sampler", "sampled image", "acceleration structure" or "unknown type". bits: of a
    scalar. count: of elements, None where it is not known before the module is specialized. stride: bytes between
    elements of an array, 0 where the module says none.
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
        return self.kind in ("bool", "int", "uint", "float")

    @cached_property
    def num_bytes(self) -> int:
        """Without what a runtime array adds; 0 where it is not known."""
        if self.is_scalar:
            return max(self.bits // 8, 1) if self.kind != "bool" else 4
        if self.kind in ("vector", "matrix"):
            return self.count * self.element.num_bytes
        if self.kind == "array":
            return (self.count or 0) * (self.stride or self.element.num_bytes)
        if self.kind == "struct":
            ends, at = [0], 0
            for member in self.members:
                at = (at if member.offset is None else member.offset) + member_bytes(member)
                ends.append(at)
            return max(ends)
        return 8 if self.kind == "pointer" else 0


def member_bytes(member: Member) -> int:
    """Of one member, with the strides of the matrices in it."""
    kind = member.type
    if kind.kind == "matrix" and member.matrix_stride:
        across = kind.element.element.num_bytes
        lines, each = (kind.element.count, kind.count) if member.is_row_major else (kind.count, kind.element.count)
        return (lines - 1) * member.matrix_stride + each * across
    return kind.num_bytes


@dataclass(frozen=True)
class Variable:
    """A global. set, binding: None where the module says none. storage: the number of its storage class.
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
    """model: the number of its stage, COMPUTE for a compute shader."""

    name: str
    model: int


@dataclass(frozen=True)
class SpecConstant:
    """default: the bits of its value."""

    name: str
    type: Type
    default: int


@dataclass(frozen=True)
class Module:
    """version: (major, minor). local_size: three sizes, each a number, or the id of the specialization constant that
    holds it as ("constant", id); empty where the module says none. capabilities: numbers. constants: specialization
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
        """Descriptors, by set and binding."""
        found = [each for each in self.variables if each.storage in (UNIFORM_CONSTANT, UNIFORM, STORAGE_BUFFER)]
        return sorted(found, key=lambda each: (each.set or 0, each.binding or 0))

    @property
    def push(self) -> Variable | None:
        return next((each for each in self.variables if each.storage == PUSH_CONSTANT), None)

    def sizes(self, given: dict[int, int]) -> tuple[int, ...]:
        """The local size with these values of specialization constants."""
        return tuple(
            given.get(size[1], self.constants[size[1]].default) if isinstance(size, tuple) else size
            for size in self.local_size
        )


def read(code: bytes) -> Module:
    """Raises DeviceError for what is no SPIR-V, is cut short or contradicts itself."""
    return _Reader(code).module()


def invalid(what: str) -> DeviceError:
    return DeviceError(f"the SPIR-V is damaged: {what}; compile the shader again")


@dataclass
class _Reader:
    code: bytes
    types: dict[int, tuple[int, list[int]]] = field(default_factory=dict)  # id -> (op, words behind the id)
    constants: dict[int, tuple[int, list[int]]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    member_names: dict[tuple[int, int], str] = field(default_factory=dict)
    decorations: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    member_decorations: dict[tuple[int, int, int], list[int]] = field(default_factory=dict)
    globals: list[tuple[int, int, int]] = field(default_factory=list)  # type, id, storage class
    entries: list[EntryPoint] = field(default_factory=list)
    capabilities: list[int] = field(default_factory=list)
    extensions: list[str] = field(default_factory=list)
    local_size: tuple = ()
    local_size_ids: tuple = ()
    made: dict[int, Type] = field(default_factory=dict)

    def module(self) -> Module:
        if len(self.code) < 20 or len(self.code) % 4:
            raise invalid(f"it has {len(self.code)} bytes")
        order = "<" if struct.unpack_from("<I", self.code)[0] == MAGIC else ">"
        words = struct.unpack(f"{order}{len(self.code) // 4}I", self.code)
        if words[0] != MAGIC:
            raise DeviceError(f"this is no SPIR-V: it begins with {self.code[:4].hex()}, not 03022307")
        if words[3] > MOST_IDS:
            raise invalid(f"it claims {words[3]} ids")
        at = 5
        while at < len(words):
            count, op = words[at] >> 16, words[at] & 0xFFFF
            if not count or at + count > len(words):
                raise invalid(f"the instruction at word {at} has {count} words, {len(words) - at} are left")
            try:
                self.take(op, list(words[at + 1 : at + count]))
            except IndexError:
                raise invalid(f"the instruction at word {at} is cut short") from None
            at += count
        constants = {
            self.decorations[key, Decoration.SPEC_ID][0]: self.spec_constant(key)
            for key in self.constants
            if self.decorations.get((key, Decoration.SPEC_ID))
        }
        return Module(
            (words[1] >> 16 & 0xFF, words[1] >> 8 & 0xFF),
            tuple(self.entries),
            self.workgroup_size(),
            tuple(self.capabilities),
            tuple(self.extensions),
            tuple(self.variable(*each) for each in self.globals),
            constants,
        )

    def take(self, op: int, words: list[int]) -> None:
        """Keep what an instruction declares. Raises IndexError where it has too few words."""
        if op == Op.NAME:
            self.names[words[0]] = text(words[1:])
        elif op == Op.MEMBER_NAME:
            self.member_names[words[0], words[1]] = text(words[2:])
        elif op == Op.EXTENSION:
            self.extensions.append(text(words))
        elif op == Op.CAPABILITY:
            self.capabilities.append(words[0])
        elif op == Op.ENTRY_POINT:
            self.entries.append(EntryPoint(text(words[2:]), words[0]))
        elif op in (Op.EXECUTION_MODE, Op.EXECUTION_MODE_ID) and words[1] in (LOCAL_SIZE, LOCAL_SIZE_ID):
            sizes = (words[2], words[3], words[4])
            self.local_size, self.local_size_ids = (sizes, ()) if words[1] == LOCAL_SIZE else ((), sizes)
        elif op in TYPE_WORDS:
            if len(words) + 1 < TYPE_WORDS[op]:
                raise IndexError
            self.types[words[0]] = op, words[1:]
        elif op in (
            Op.CONSTANT,
            Op.CONSTANT_COMPOSITE,
            Op.SPEC_TRUE,
            Op.SPEC_FALSE,
            Op.SPEC_CONSTANT,
            Op.SPEC_COMPOSITE,
        ):
            self.constants[words[1]] = op, [words[0], *words[2:]]
        elif op == Op.VARIABLE and words[2] in (UNIFORM_CONSTANT, UNIFORM, WORKGROUP, PUSH_CONSTANT, STORAGE_BUFFER):
            self.globals.append((words[0], words[1], words[2]))
        elif op == Op.DECORATE:
            self.decorations[words[0], words[1]] = words[2:]
        elif op == Op.MEMBER_DECORATE:
            self.member_decorations[words[0], words[1], words[2]] = words[3:]

    def type(self, key: int, depth: int = 0) -> Type:
        if key in self.made:
            return self.made[key]
        if depth > DEEPEST_TYPE or key not in self.types:
            raise invalid(f"type {key} is " + ("missing" if key not in self.types else "nested too deeply"))
        op, words = self.types[key]
        stride = self.number((key, Decoration.ARRAY_STRIDE)) or 0
        if op == Op.BOOL:
            made = Type("bool", 32)
        elif op == Op.INT:
            made = Type("int" if words[1] else "uint", words[0])
        elif op == Op.FLOAT:
            made = Type("float", words[0])
        elif op in (Op.VECTOR, Op.MATRIX):
            made = Type(
                "vector" if op == Op.VECTOR else "matrix", element=self.type(words[0], depth + 1), count=words[1]
            )
        elif op == Op.ARRAY:
            made = Type("array", element=self.type(words[0], depth + 1), count=self.length(words[1]), stride=stride)
        elif op == Op.RUNTIME_ARRAY:
            made = Type("runtime array", element=self.type(words[0], depth + 1), stride=stride)
        elif op == Op.STRUCT:
            made = Type(
                "struct",
                members=tuple(self.member(key, at, each, depth) for at, each in enumerate(words)),
                is_block=(key, Decoration.BLOCK) in self.decorations,
                is_buffer_block=(key, Decoration.BUFFER_BLOCK) in self.decorations,
            )
        elif op == Op.IMAGE:
            made = Type("texel buffer" if words[1] == 5 else "image")  # dimension Buffer
        else:
            made = Type(
                {Op.POINTER: "pointer", Op.SAMPLER: "sampler", Op.SAMPLED_IMAGE: "sampled image"}.get(
                    op, "acceleration structure"
                )
            )
        if (
            made.kind in ("vector", "matrix")
            and not made.element.is_scalar
            and not (made.kind == "matrix" and made.element.kind == "vector")
        ):
            raise invalid(f"{made.kind} {key} holds {made.element.kind}s")
        self.made[key] = made
        return made

    def member(self, key: int, at: int, type_id: int, depth: int) -> Member:
        return Member(
            self.member_names.get((key, at), str(at)),
            self.type(type_id, depth + 1),
            self.number((key, at, Decoration.OFFSET)),
            self.number((key, at, Decoration.MATRIX_STRIDE)) or 0,
            (key, at, Decoration.ROW_MAJOR) in self.member_decorations,
            (key, at, Decoration.NON_WRITABLE) in self.member_decorations,
        )

    def number(self, key: tuple) -> int | None:
        """The first operand of a decoration, of a member where the key has three parts."""
        found = (self.decorations if len(key) == 2 else self.member_decorations).get(key)
        return found[0] if found else None

    def length(self, key: int) -> int | None:
        """Of an array; None where it is specialized or computed."""
        op, words = self.constants.get(key, (0, []))
        return words[1] if op == Op.CONSTANT and len(words) > 1 else None

    def variable(self, pointer: int, key: int, storage: int) -> Variable:
        op, words = self.types.get(pointer, (0, []))
        if op != Op.POINTER:
            raise invalid(f"variable {key} is no pointer")
        kind = self.type(words[1])
        name = self.names.get(key) or self.names.get(words[1]) or f"%{key}"
        readonly = (
            (key, Decoration.NON_WRITABLE) in self.decorations
            or bool(kind.members)
            and all(each.is_readonly for each in kind.members)
        )
        return Variable(
            name, kind, storage, self.number((key, Decoration.SET)), self.number((key, Decoration.BINDING)), readonly
        )

    def spec_constant(self, key: int) -> SpecConstant:
        op, words = self.constants[key]
        bits = sum(word << 32 * at for at, word in enumerate(words[1:3]))
        return SpecConstant(self.names.get(key, ""), self.type(words[0]), 1 if op == Op.SPEC_TRUE else bits)

    def workgroup_size(self) -> tuple:
        """What a constant with the built-in WorkgroupSize says counts, then LocalSizeId, then LocalSize."""
        parts = self.local_size_ids
        for (key, decoration), operands in self.decorations.items():
            if decoration == Decoration.BUILT_IN and operands[:1] == [WORKGROUP_SIZE] and key in self.constants:
                parts = tuple(self.constants[key][1][1:])
        if not parts:
            return self.local_size
        if len(parts) != 3 or any(len(self.constants.get(part, (0, []))[1]) < 2 for part in parts):
            raise invalid("its workgroup size is not three constants")
        spec = [self.number((part, Decoration.SPEC_ID)) for part in parts]
        return tuple(
            self.constants[part][1][1] if found is None else ("constant", found) for part, found in zip(parts, spec)
        )


def text(words: list[int]) -> str:
    """A string: bytes up to the first NUL, four in each word. Raises IndexError where it has no end."""
    data = struct.pack(f"<{len(words)}I", *words)
    if b"\0" not in data:
        raise IndexError
    return data[: data.index(0)].decode("utf-8", "replace")
