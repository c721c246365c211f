"""Run any compute shader on numpy arrays, for shader development.

y, = run_shader(device, glsl, inputs=[x], outputs=[(x.shape, "float32")], groups=(4, 1, 1))
"""

import hashlib
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsIndex

import numpy as np

from ..errors import DeviceError, brief
from . import shader_checks, spirv, spirv_reader
from .buffers import Arena, Buffer
from .context import Device
from .device_info import DeviceInfo
from .dispatch import Dispatch, Program
from .interface import Interface
from .scalars import pack_push, pack_scalar
from .shader_checks import Given
from .shaders import compile_glsl

MOST_PUSH_VALUES = 1 << 16  # more than any device's push-constant block holds


def run_shader(
    device: Device,
    glsl: str | bytes,
    *,
    inputs: Iterable[np.ndarray] = (),
    outputs: Iterable[tuple] = (),
    groups: Sequence[int] | np.ndarray = (1, 1, 1),
    push: Iterable | Mapping[str, object] = (),
    constants: dict | None = None,
    target: str = "vulkan1.1",
    subgroup_size: int = 0,
) -> list[np.ndarray]:
    """Compile `glsl` and run it once.

    inputs: arrays, bound as storage buffers 0, 1, ... of set 0. outputs: (shape, dtype) each, bound after the inputs
        and zero before the run. Dtypes must be those that the shader declares.
    groups: workgroups in x, y, z.
    push: a number for each scalar of the push-constant block, in order, or {name: number}.
    constants: {constant_id or name: number}; the others keep their defaults.
    target: the Vulkan version to compile for. subgroup_size: a required size, 0 for any.
    Returns the outputs. Raises DeviceError with the compiler's message, if the shader and the arguments do not match,
    if a number does not fit its type, or if the device refuses; DeviceLost if the run takes too long (the next call
    opens the device again).
    """
    if not isinstance(device, Device):
        raise DeviceError(f"device is {type(device).__name__}; it must be an open device: vkbackend.open_device()")
    arrays = [_array(each, f"inputs[{at}]") for at, each in enumerate(_listed(inputs, "inputs"))]
    results = [_result(each, f"outputs[{at}]") for at, each in enumerate(_listed(outputs, "outputs"))]
    workgroups = _groups(groups)
    subgroup_size = _whole(subgroup_size, "subgroup_size")
    code = compile_glsl(glsl, target)
    module = spirv_reader.read(code)
    info = device.info
    shader_checks.check_entry(module)
    given = [Given(f"inputs[{at}]", each.shape, each.dtype, False) for at, each in enumerate(arrays)]
    shader_checks.check_bindings(module, given + results, info)
    shader_checks.check_features(module, info)
    words = _constants(module, constants)
    push_words = _push(module, push, info)
    shader_checks.check_workgroups(module, workgroups, words, subgroup_size, info)

    device.reopen_if_lost()
    name = "run_shader-" + hashlib.sha256(code).hexdigest()[:16]
    device.kernels.add(name, code, interface=_interface(name, words, push_words))
    arena = Arena(device, "device", 1 << 20)
    reads = tuple(_place(device, arena, array) for array in arrays)
    writes = tuple(_place(device, arena, np.zeros(each.shape, each.dtype)) for each in results)
    dispatch = Dispatch(
        name,
        reads,
        writes,
        workgroups,
        {str(key): word for key, word in words.items()},
        {f"word {at}": word for at, word in enumerate(push_words)},
        subgroup_size,
    )
    Program(device, [dispatch]).run()
    return [device.download(buffer, each.dtype, each.shape) for buffer, each in zip(writes, results)]


def _place(device: Device, arena: Arena, array: np.ndarray) -> Buffer:
    buffer = arena.allocate(array.nbytes).slice(0, array.nbytes)  # the shader's length() counts the array's elements
    device.upload(buffer, array)
    return buffer


def _check_unmasked(value: object, name: str) -> None:
    """Raises DeviceError for a masked array, since numpy would drop its mask silently."""
    if isinstance(value, np.ma.MaskedArray):
        raise DeviceError(f"{name} is a masked array, and a shader sees no mask; pass its .filled(number) or its .data")


def _listed(values: object, name: str) -> list:
    if isinstance(values, (str, bytes, np.ndarray, Mapping)) or not isinstance(values, Iterable):
        raise DeviceError(f"{name} is {type(values).__name__}; it must be a list")
    return list(values)


def _whole(value: object, name: str) -> int:
    try:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, SupportsIndex):
            raise TypeError
        return operator.index(value)
    except TypeError:  # also for arrays of several elements, which have __index__
        raise DeviceError(f"{name} is {brief(value)}; it must be an integer") from None


def _groups(groups: object) -> tuple[int, int, int]:
    _check_unmasked(groups, "groups")
    if isinstance(groups, np.ndarray):
        groups = groups.tolist()
    if not isinstance(groups, (list, tuple)) or len(groups) != 3:
        raise DeviceError(
            f"groups is {brief(groups)}; it must be three integers: workgroups in x, y and z, such as (4, 1, 1)"
        )
    x, y, z = (_whole(each, f"groups[{at}]") for at, each in enumerate(groups))
    return x, y, z


def _array(value: object, name: str) -> np.ndarray:
    """The array in C order and the machine's byte order. Raises DeviceError if it is empty or not of numbers."""
    if not isinstance(value, np.ndarray) and not isinstance(value, np.generic):
        raise DeviceError(
            f"{name} is {type(value).__name__}; it must be a numpy array: np.array(values, dtype) sets the type that "
            "the shader reads"
        )
    _check_unmasked(value, name)
    value = np.asarray(value)
    _check_dtype(value.dtype, value.shape, name)
    return np.asarray(value, value.dtype.newbyteorder("="), order="C")


def _check_dtype(dtype: np.dtype, shape: tuple[int, ...], name: str) -> None:
    if dtype.kind not in "iuf" and not (dtype.kind == "V" and dtype.fields):
        raise DeviceError(f"{name} has dtype {dtype}; a shader reads integers and floats")
    if 0 in shape:
        raise DeviceError(f"{name} has shape {shape}: it is empty, and a storage buffer needs at least one element")


def _result(value: object, name: str) -> Given:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise DeviceError(f"{name} is {brief(value)}; it must be (shape, dtype), such as ((4, 8), 'float32')")
    shape, dtype = value
    shape = tuple(
        _whole(size, f"{name}: a size")
        for size in (_listed(shape, f"{name}: the shape") if np.ndim(shape) else [shape])
    )
    try:
        if dtype is None:
            raise TypeError("None")
        dtype = np.dtype(dtype).newbyteorder("=")
    except (TypeError, ValueError) as error:
        raise DeviceError(f"{name}: {brief(value[1])} is not a dtype ({error}); use one such as float32") from None
    if any(size < 0 for size in shape):
        raise DeviceError(f"{name} has shape {shape}: sizes must be positive")
    _check_dtype(dtype, shape, name)
    return Given(name, shape, dtype, True)


def _interface(name: str, words: dict[int, int], push: tuple[int, ...]) -> Interface:
    """Constants and push constants that are already packed as words, named by their numbers."""
    return Interface(
        name, {str(key): (key, "uint") for key in words}, {f"word {at}": "uint" for at in range(len(push))}
    )


def _constants(module: spirv.Module, constants: object) -> dict[int, int]:
    """{constant_id: word} of all constants of 32 bits; those not given have their defaults."""
    if not isinstance(constants, (dict, type(None))):
        raise DeviceError(f"constants is {type(constants).__name__}; it must be {{constant_id: number}}")
    numbers: dict[str, list[int]] = {}
    for number, constant in module.constants.items():
        numbers.setdefault(constant.name, []).append(number)
    words = {
        number: constant.default
        for number, constant in module.constants.items()
        if constant.type.bits == 32 or constant.type.kind == "bool"
    }
    given: dict[int, object] = {}  # the key that set each constant
    for written, value in (constants or {}).items():
        named = numbers.get(written, []) if isinstance(written, str) else []
        if len(named) > 1:
            raise DeviceError(f"the shader has {len(named)} constants named {written}; use their numbers: {named}")
        key = named[0] if named else written
        declared = module.constants.get(key) if isinstance(key, int) and not isinstance(key, bool) else None
        if declared is None:
            known = (
                ", ".join(f"{each} ({constant.name})" for each, constant in sorted(module.constants.items())) or "none"
            )
            raise DeviceError(f"the shader has no specialization constant {brief(key)}; it has: {known}")
        if key not in words:
            raise DeviceError(f"constants[{key}] has {declared.type.bits} bits; only constants of 32 bits can be set")
        if key in given:
            raise DeviceError(f"constants gives {declared.name} twice: as {given[key]!r} and as {written!r}")
        given[key] = written
        _check_unmasked(value, f"constants[{key}]")
        words[key] = int.from_bytes(pack_scalar(declared.type, value, f"constants[{key}]"), "little")
    return words


def _push(module: spirv.Module, push: object, info: DeviceInfo) -> tuple[int, ...]:
    """The push-constant block as words."""
    _check_unmasked(push, "push")
    if isinstance(push, Mapping):
        push = _by_name(module, push)
    elif isinstance(push, np.ndarray):
        push = push.tolist()
    values = _flat(_listed(push, "push"), "push")
    if module.push is None:
        if values:
            raise DeviceError(f"push has {len(values)} values, but the shader declares no push constants")
        return ()
    size = module.push.type.num_bytes
    most = info.limits.max_push_constants_bytes
    if size > most:
        raise DeviceError(f"the push constants take {size} bytes; {info.name} allows at most {most}")
    packed = pack_push(module.push.type, values)
    return tuple(np.frombuffer(packed, "<u4").tolist())


def _by_name(module: spirv.Module, push: Mapping) -> list:
    """The values of {member: value} in the order of the push-constant block."""
    names = [member.name for member in module.push.type.members] if module.push else []
    if set(push) != set(names):
        raise DeviceError(
            f"push has {', '.join(map(repr, push)) or 'no values'}; the shader declares {', '.join(names) or 'none'}"
        )
    return [push[name] for name in names]


def _flat(values: Sequence, name: str, depth: int = 0) -> list:
    """The numbers in vectors, arrays and structs, in order."""
    if depth > spirv.DEEPEST_TYPE:
        raise DeviceError(f"{name} is nested too deeply")
    flat: list = []
    for value in values:
        _check_unmasked(value, name)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        flat += _flat(value, name, depth + 1) if isinstance(value, (list, tuple)) else [value]
        if len(flat) > MOST_PUSH_VALUES:
            raise DeviceError(f"{name} has more than {MOST_PUSH_VALUES} values")
    return flat
