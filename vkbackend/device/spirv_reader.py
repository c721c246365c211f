"""Reads the declarations of a SPIR-V module.

In: the words of a module. Out: `spirv.Module`. Every index is checked: invalid modules raise DeviceError. The module's
functions are neither executed nor read. Numbers: https://registry.khronos.org/SPIR-V/specs/unified1/SPIRV.html
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from ..errors import DeviceError
from .spirv import DEEPEST_TYPE, GLOBAL_STORAGE, EntryPoint, Member, Module, SpecConstant, Type, Variable

MAGIC = 0x07230203
MOST_IDS = 1 << 22  # SPIR-V's universal limit
LOCAL_SIZE = 17  # execution modes
LOCAL_SIZE_ID = 38
WORKGROUP_SIZE = 25  # the built-in
BUFFER_DIMENSION = 5  # of an image


class Op(IntEnum):
    """Opcodes: OpName, OpTypeBool, ..."""

    NAME = 5
    MEMBER_NAME = 6
    EXTENSION = 10
    ENTRY_POINT = 15
    EXECUTION_MODE = 16
    CAPABILITY = 17
    BOOL = 20
    INT = 21
    FLOAT = 22
    VECTOR = 23
    MATRIX = 24
    IMAGE = 25
    SAMPLER = 26
    SAMPLED_IMAGE = 27
    ARRAY = 28
    RUNTIME_ARRAY = 29
    STRUCT = 30
    POINTER = 32
    CONSTANT = 43
    CONSTANT_COMPOSITE = 44
    SPEC_TRUE = 48
    SPEC_FALSE = 49
    SPEC_CONSTANT = 50
    SPEC_COMPOSITE = 51
    VARIABLE = 59
    DECORATE = 71
    MEMBER_DECORATE = 72
    EXECUTION_MODE_ID = 331
    ACCELERATION_STRUCTURE = 5341


class Decoration(IntEnum):
    """Decorations: SpecId, Block, ..."""

    SPEC_ID = 1
    BLOCK = 2
    BUFFER_BLOCK = 3
    ROW_MAJOR = 4
    ARRAY_STRIDE = 6
    MATRIX_STRIDE = 7
    BUILT_IN = 11
    NON_WRITABLE = 24
    BINDING = 33
    SET = 34
    OFFSET = 35


TYPE_WORDS: dict[int, int] = {  # fewest words of each type instruction
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

CONSTANT_OPS = (
    Op.CONSTANT,
    Op.CONSTANT_COMPOSITE,
    Op.SPEC_TRUE,
    Op.SPEC_FALSE,
    Op.SPEC_CONSTANT,
    Op.SPEC_COMPOSITE,
)
# kind of the types without further declarations that matter here
PLAIN_TYPES: dict[int, str] = {
    Op.POINTER: "pointer",
    Op.SAMPLER: "sampler",
    Op.SAMPLED_IMAGE: "sampled image",
    Op.ACCELERATION_STRUCTURE: "acceleration structure",
}


def read(code: bytes) -> Module:
    """Parse a module. Raises DeviceError if it is not SPIR-V, truncated or inconsistent."""
    return _Reader(code).module()


def invalid(what: str) -> DeviceError:
    """The error for a damaged module."""
    return DeviceError(f"the SPIR-V is damaged: {what}; compile the shader again")


@dataclass
class _Reader:
    code: bytes
    types: dict[int, tuple[int, list[int]]] = field(default_factory=dict)  # id -> (op, words after the id)
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
            raise DeviceError(f"this is not SPIR-V: it begins with {self.code[:4].hex()}, not 03022307")
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
        """Store what an instruction declares. Raises IndexError if it has too few words."""
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
        elif op in CONSTANT_OPS:
            self.constants[words[1]] = op, [words[0], *words[2:]]
        elif op == Op.VARIABLE and words[2] in GLOBAL_STORAGE:
            self.globals.append((words[0], words[1], words[2]))
        elif op == Op.DECORATE:
            self.decorations[words[0], words[1]] = words[2:]
        elif op == Op.MEMBER_DECORATE:
            self.member_decorations[words[0], words[1], words[2]] = words[3:]

    def type(self, key: int, depth: int = 0) -> Type:
        """The type with this id. Raises DeviceError if it is missing, nested too deeply or inconsistent."""
        if key in self.made:
            return self.made[key]
        if depth > DEEPEST_TYPE or key not in self.types:
            raise invalid(f"type {key} is " + ("missing" if key not in self.types else "nested too deeply"))
        made = self.new_type(key, depth)
        if made.kind in ("vector", "matrix"):
            element, _ = made.elements
            if not element.is_scalar and not (made.kind == "matrix" and element.kind == "vector"):
                raise invalid(f"{made.kind} {key} holds {element.kind}s")
        self.made[key] = made
        return made

    def new_type(self, key: int, depth: int) -> Type:
        """Like `type`, for an id that is declared and not in `made`."""
        op, words = self.types[key]
        stride = self.decoration(key, Decoration.ARRAY_STRIDE) or 0
        if op == Op.BOOL:
            return Type("bool", 32)
        if op == Op.INT:
            return Type("int" if words[1] else "uint", words[0])
        if op == Op.FLOAT:
            return Type("float", words[0])
        if op in (Op.VECTOR, Op.MATRIX):
            kind = "vector" if op == Op.VECTOR else "matrix"
            return Type(kind, element=self.type(words[0], depth + 1), count=words[1])
        if op == Op.ARRAY:
            return Type("array", element=self.type(words[0], depth + 1), count=self.length(words[1]), stride=stride)
        if op == Op.RUNTIME_ARRAY:
            return Type("runtime array", element=self.type(words[0], depth + 1), stride=stride)
        if op == Op.STRUCT:
            return Type(
                "struct",
                members=tuple(self.member(key, at, each, depth) for at, each in enumerate(words)),
                is_block=(key, Decoration.BLOCK) in self.decorations,
                is_buffer_block=(key, Decoration.BUFFER_BLOCK) in self.decorations,
            )
        if op == Op.IMAGE:
            return Type("texel buffer" if words[1] == BUFFER_DIMENSION else "image")
        return Type(PLAIN_TYPES[op])

    def member(self, key: int, at: int, type_id: int, depth: int) -> Member:
        """Member number `at` of the struct with id `key`."""
        return Member(
            self.member_names.get((key, at), str(at)),
            self.type(type_id, depth + 1),
            _first(self.member_decorations.get((key, at, Decoration.OFFSET))),
            _first(self.member_decorations.get((key, at, Decoration.MATRIX_STRIDE))) or 0,
            (key, at, Decoration.ROW_MAJOR) in self.member_decorations,
            (key, at, Decoration.NON_WRITABLE) in self.member_decorations,
        )

    def decoration(self, key: int, kind: Decoration) -> int | None:
        """The first operand of a decoration; None if there is none."""
        return _first(self.decorations.get((key, kind)))

    def length(self, key: int) -> int | None:
        """The length of an array, given by the constant `key`; None if it is specialized or computed."""
        op, words = self.constants.get(key, (0, []))
        return words[1] if op == Op.CONSTANT and len(words) > 1 else None

    def variable(self, pointer: int, key: int, storage: int) -> Variable:
        """The global variable with id `key`."""
        op, words = self.types.get(pointer, (0, []))
        if op != Op.POINTER:
            raise invalid(f"variable {key} is not a pointer")
        kind = self.type(words[1])
        name = self.names.get(key) or self.names.get(words[1]) or f"%{key}"
        members_are_readonly = bool(kind.members) and all(each.is_readonly for each in kind.members)
        return Variable(
            name,
            kind,
            storage,
            set=self.decoration(key, Decoration.SET),
            binding=self.decoration(key, Decoration.BINDING),
            is_readonly=members_are_readonly or (key, Decoration.NON_WRITABLE) in self.decorations,
        )

    def spec_constant(self, key: int) -> SpecConstant:
        """The specialization constant with id `key`."""
        op, words = self.constants[key]
        bits = sum(word << 32 * at for at, word in enumerate(words[1:3]))
        return SpecConstant(self.names.get(key, ""), self.type(words[0]), 1 if op == Op.SPEC_TRUE else bits)

    def workgroup_size(self) -> tuple:
        """The local size: a constant with the built-in WorkgroupSize comes first, then LocalSizeId, then LocalSize."""
        parts = self.local_size_ids
        for (key, decoration), operands in self.decorations.items():
            if decoration == Decoration.BUILT_IN and operands[:1] == [WORKGROUP_SIZE] and key in self.constants:
                parts = tuple(self.constants[key][1][1:])
        if not parts:
            return self.local_size
        if len(parts) != 3 or any(len(self.constants.get(part, (0, []))[1]) < 2 for part in parts):
            raise invalid("its workgroup size is not three constants")
        spec = [self.decoration(part, Decoration.SPEC_ID) for part in parts]
        return tuple(
            self.constants[part][1][1] if found is None else ("constant", found) for part, found in zip(parts, spec)
        )


def _first(operands: list[int] | None) -> int | None:
    return operands[0] if operands else None


def text(words: list[int]) -> str:
    """A string: bytes up to the first NUL, four in each word. Raises IndexError if it is not terminated."""
    data = struct.pack(f"<{len(words)}I", *words)
    if b"\0" not in data:
        raise IndexError
    return data[: data.index(0)].decode("utf-8", "replace")
