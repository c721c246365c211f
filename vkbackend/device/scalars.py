"""Packs numbers into the bytes that a shader reads, by the types that its SPIR-V declares. A number that does not fit
its type is an error.

In: `spirv.Type` and values. Out: packed push constants, words of specialization constants.
"""

import struct

import numpy as np

from ..errors import DeviceError, brief
from .spirv import Member, Type

FORMATS = {("float", 16): "<e", ("float", 32): "<f", ("float", 64): "<d"}


def scalar_name(kind: Type) -> str:
    """numpy's name of the type: float32, uint16."""
    return f"{kind.kind}{kind.bits}"


def pack_scalar(kind: Type, value: object, where: str) -> bytes:
    """The bytes of a number. where: the value's name in errors. Raises DeviceError if it is not a number or does not
    fit the type.
    """
    if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0:
        value = value.item()
    if not isinstance(value, (bool, int, float)):
        raise DeviceError(
            f"{where} is {brief(value)} ({type(value).__name__}); it must be a number ({scalar_name(kind)})"
        )
    if kind.kind == "bool":
        if value not in (0, 1):
            raise DeviceError(f"{where} is {brief(value)}; it must be a bool")
        return struct.pack("<I", int(value))
    if kind.kind == "float":
        return _packed_float(kind, value, where)
    if kind.kind not in ("int", "uint") or kind.bits not in (8, 16, 32, 64):
        raise DeviceError(f"{where} is of type {scalar_name(kind)}, which cannot be given from Python")
    if kind.kind == "int":
        least = -(1 << kind.bits - 1)
        most = (1 << kind.bits - 1) - 1
    else:
        least = 0
        most = (1 << kind.bits) - 1
    if value != value or value in (float("inf"), float("-inf")) or value != int(value) or not least <= value <= most:
        raise DeviceError(
            f"{where} is {brief(value)}; it must be of type {scalar_name(kind)}: an integer from {least} to {most}"
        )
    return int(value).to_bytes(kind.bits // 8, "little", signed=kind.kind == "int")


def _packed_float(kind: Type, value: float, where: str) -> bytes:
    """Floats are rounded to the nearest; integers must be exact."""
    if (kind.kind, kind.bits) not in FORMATS:
        raise DeviceError(f"{where} is of type {scalar_name(kind)}, which cannot be given from Python")
    layout = FORMATS[kind.kind, kind.bits]
    try:
        packed = struct.pack(layout, value)
    except (OverflowError, struct.error):
        raise DeviceError(f"{where} is {brief(value)}, which is too large for a {scalar_name(kind)}") from None
    if isinstance(value, int) and struct.unpack(layout, packed)[0] != value:
        raise DeviceError(
            f"{where} is {brief(value)}, which a {scalar_name(kind)} does not hold exactly; give it as a float to "
            f"have it rounded"
        )
    return packed


def leaves(kind: Type, offset: int = 0, member: Member | None = None) -> list[tuple[int, Type]]:
    """All scalars of a type as (byte offset, type), in GLSL's order; matrices column by column. The caller limits the
    size.
    """
    if kind.is_scalar:
        return [(offset, kind)]
    if kind.kind == "struct":
        return [leaf for each in kind.members for leaf in leaves(each.type, offset + (each.offset or 0), each)]
    if kind.kind == "matrix" and member and member.matrix_stride:
        column_type, num_columns = kind.elements
        scalar, num_rows = column_type.elements
        size, stride = scalar.num_bytes, member.matrix_stride
        across, down = (size, stride) if member.is_row_major else (stride, size)
        return [
            (offset + column * across + row * down, scalar) for column in range(num_columns) for row in range(num_rows)
        ]
    if kind.kind in ("vector", "matrix", "array") and kind.count is not None:
        element, count = kind.elements
        step = kind.stride or element.num_bytes
        return [leaf for at in range(count) for leaf in leaves(element, offset + at * step, member)]
    if kind.kind == "pointer":
        return [(offset, Type("uint", 64))]
    raise DeviceError(
        f"the push constants hold a {kind.kind} whose size is unknown before the shader is specialized; give it a "
        "fixed size"
    )


def pack_push(kind: Type, values: list) -> bytes:
    """The push-constant block, with a value for each of its scalars, padded to whole words. Raises DeviceError."""
    wanted = leaves(kind)
    if len(values) != len(wanted):
        names = ", ".join(scalar_name(leaf) for _, leaf in wanted[:16]) + (" ..." if len(wanted) > 16 else "")
        raise DeviceError(f"push has {len(values)} values, the shader declares {len(wanted)}: {names}")
    packed = bytearray(-(-kind.num_bytes // 4) * 4)
    for at, (value, (offset, leaf)) in enumerate(zip(values, wanted)):
        data = pack_scalar(leaf, value, f"push[{at}]")
        packed[offset : offset + len(data)] = data
    return bytes(packed)
