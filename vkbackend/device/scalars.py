"""Numbers -> the bytes that a shader reads, by the types that its SPIR-V declares. A number that does not fit its
type is an error.

In: `spirv.Type` and values. Out: packed push constants, words of specialization constants.
"""

import struct

import numpy as np

from ..errors import DeviceError
from .spirv import Member, Type

FORMATS = {("float", 16): "<e", ("float", 32): "<f", ("float", 64): "<d"}


def scalar_name(kind: Type) -> str:
    """As numpy names it: float32, uint16."""
    return f"{kind.kind}{kind.bits}"


def pack_scalar(kind: Type, value, where: str) -> bytes:
    """where: names the value in errors. Raises DeviceError where it is no number, or not one of this type."""
    if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0:
        value = value.item()
    if not isinstance(value, (bool, int, float)):
        raise DeviceError(
            f"{where} is {_brief(value)} ({type(value).__name__}), must be a number ({scalar_name(kind)})"
        )
    if kind.kind == "bool":
        if value not in (0, 1):
            raise DeviceError(f"{where} is {_brief(value)}, must be a bool")
        return struct.pack("<I", int(value))
    if kind.kind == "float":
        return _packed_float(kind, value, where)
    if kind.kind not in ("int", "uint") or kind.bits not in (8, 16, 32, 64):
        raise DeviceError(f"{where} is of type {scalar_name(kind)}, which cannot be given from Python")
    least, most = (-(1 << kind.bits - 1), (1 << kind.bits - 1) - 1) if kind.kind == "int" else (0, (1 << kind.bits) - 1)
    if value != value or value in (float("inf"), float("-inf")) or value != int(value) or not least <= value <= most:
        raise DeviceError(
            f"{where} is {_brief(value)}, which is no {scalar_name(kind)}: whole numbers from {least} to {most} are "
            f"possible"
        )
    return int(value).to_bytes(kind.bits // 8, "little", signed=kind.kind == "int")


def _packed_float(kind: Type, value, where: str) -> bytes:
    """Rounded to the nearest, as everywhere; whole numbers must be exact."""
    if (kind.kind, kind.bits) not in FORMATS:
        raise DeviceError(f"{where} is of type {scalar_name(kind)}, which cannot be given from Python")
    layout = FORMATS[kind.kind, kind.bits]
    try:
        packed = struct.pack(layout, value)
    except (OverflowError, struct.error):
        raise DeviceError(f"{where} is {_brief(value)}, which is too large for a {scalar_name(kind)}") from None
    if isinstance(value, int) and struct.unpack(layout, packed)[0] != value:
        raise DeviceError(
            f"{where} is {_brief(value)}, which a {scalar_name(kind)} does not hold exactly; give it as a float to "
            f"have it rounded"
        )
    return packed


def _brief(value) -> str:
    shown = f"{value:#x}" if isinstance(value, int) and abs(value) >= 1 << 200 else repr(value)
    return shown if len(shown) <= 60 else shown[:60] + "..."


def leaves(kind: Type, offset: int = 0, member: Member | None = None) -> list[tuple[int, Type]]:
    """Every scalar in a type as (byte offset, type), in the order in which GLSL lists them; matrices column by
    column. The caller bounds the size.
    """
    if kind.is_scalar:
        return [(offset, kind)]
    if kind.kind == "struct":
        return [leaf for each in kind.members for leaf in leaves(each.type, offset + (each.offset or 0), each)]
    if kind.kind == "matrix" and member and member.matrix_stride:
        size, stride = kind.element.element.num_bytes, member.matrix_stride
        across, down = (size, stride) if member.is_row_major else (stride, size)
        return [
            (offset + column * across + row * down, kind.element.element)
            for column in range(kind.count)
            for row in range(kind.element.count)
        ]
    if kind.kind in ("vector", "matrix", "array") and kind.count is not None:
        step = kind.stride or kind.element.num_bytes
        return [leaf for at in range(kind.count) for leaf in leaves(kind.element, offset + at * step, member)]
    if kind.kind == "pointer":
        return [(offset, Type("uint", 64))]
    raise DeviceError(
        f"the push constants hold a {kind.kind} whose size is not known before the shader is specialized; give it a "
        f"fixed size"
    )


def pack_push(kind: Type, values: list) -> bytes:
    """The push-constant block with a value for each of its scalars, filled up to whole words. Raises DeviceError."""
    wanted = leaves(kind)
    if len(values) != len(wanted):
        raise DeviceError(
            (
                f"push has {len(values)} values, the shader declares {len(wanted)}: "
                f"{', '.join(scalar_name(leaf) for _, leaf in wanted[:16])}"
            )
            + (" ..." if len(wanted) > 16 else "")
        )
    packed = bytearray(-(-kind.num_bytes // 4) * 4)
    for at, (value, (offset, leaf)) in enumerate(zip(values, wanted)):
        data = pack_scalar(leaf, value, f"push[{at}]")
        packed[offset : offset + len(data)] = data
    return bytes(packed)
