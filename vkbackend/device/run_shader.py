"""Any compute shader on numpy arrays: for people who write one.

y, = run_shader(device, glsl, inputs=[x], outputs=[(x.shape, "float32")], groups=(4, 1, 1))
"""

import hashlib
import operator
from collections.abc import Mapping

import numpy as np

from ..errors import DeviceError
from . import shader_checks, spirv
from .buffers import Arena
from .context import Device
from .dispatch import Dispatch, Program
from .interface import Interface
from .scalars import pack_push, pack_scalar
from .shader_checks import Given
from .shaders import compile_glsl

MOST_PUSH_VALUES = 1 << 16  # no device has a push-constant block of as many


def run_shader(
    device,
    glsl: str,
    *,
    inputs=(),
    outputs=(),
    groups=(1, 1, 1),
    push=(),
    constants=None,
    target: str = "vulkan1.1",
    subgroup_size: int = 0,
) -> list[np.ndarray]:
    """Compile `glsl` and run it once.

    inputs: arrays, bound as storage buffers 0, 1, ... of set 0; outputs: (shape, dtype) each, bound after them and
    zero before the run. Their dtypes are those that the shader declares. groups: workgroups in x, y, z; push: a
    number for each scalar of the push-constant block, in its order, or {name: number}; constants: {constant_id or
    name: number}, of those that are to differ from their defaults; subgroup_size: a required size, 0 for any.
    Returns the outputs. Raises DeviceError with the compiler's message, where the shader and what is given do not
    fit each other, where a number does not fit its type, and where the device refuses; DeviceLost where the run took
    too long: the next call opens the device again.
    """
    if not isinstance(device, Device):
        raise DeviceError(f"device is {type(device).__name__}, must be an open device: vkbackend.open_device()")
    arrays = [_array(each, f"inputs[{at}]") for at, each in enumerate(_listed(inputs, "inputs"))]
    results = [_result(each, f"outputs[{at}]") for at, each in enumerate(_listed(outputs, "outputs"))]
    groups, subgroup_size = _groups(groups), _whole(subgroup_size, "subgroup_size")
    code = compile_glsl(glsl, target)
    module, info = spirv.read(code), device.info
    shader_checks.check_entry(module)
    given = [Given(f"inputs[{at}]", each.shape, each.dtype, False) for at, each in enumerate(arrays)]
    shader_checks.check_bindings(module, given + results, info)
    shader_checks.check_features(module, info)
    words = _constants(module, constants)
    push = _push(module, push, info)
    shader_checks.check_workgroups(module, groups, words, subgroup_size, info)

    device.renew()
    name = "run_shader-" + hashlib.sha256(code).hexdigest()[:16]
    device.kernels.add(name, code, interface=_interface(name, words, push))
    arena = Arena(device, "device", 1 << 20)

    def place(array):
        buffer = arena.allocate(array.nbytes).slice(
            0, array.nbytes
        )  # the shader's length() counts the array's elements
        device.upload(buffer, array)
        return buffer

    reads = tuple(place(array) for array in arrays)
    writes = tuple(place(np.zeros(each.shape, each.dtype)) for each in results)
    Program(
        device,
        [
            Dispatch(
                name,
                reads,
                writes,
                groups,
                {str(key): word for key, word in words.items()},
                {f"word {at}": word for at, word in enumerate(push)},
                subgroup_size,
            )
        ],
    ).run()
    return [device.download(buffer, each.dtype, each.shape) for buffer, each in zip(writes, results)]


def _listed(values, name: str) -> list:
    if isinstance(values, (str, bytes, np.ndarray, Mapping)):
        raise DeviceError(f"{name} is {type(values).__name__}, must be a list")
    try:
        return list(values)
    except TypeError:
        raise DeviceError(f"{name} is {type(values).__name__}, must be a list") from None


def _whole(value, name: str) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise DeviceError(f"{name} is {value!r:.60}, must be a whole number") from None


def _groups(groups) -> tuple[int, int, int]:
    if isinstance(groups, np.ndarray):
        groups = groups.tolist()
    if not isinstance(groups, (list, tuple)) or len(groups) != 3:
        raise DeviceError(
            f"groups is {groups!r:.60}, must be three whole numbers: workgroups in x, y and z, such as (4, 1, 1)"
        )
    x, y, z = (_whole(each, f"groups[{at}]") for at, each in enumerate(groups))
    return x, y, z


def _array(value, name: str) -> np.ndarray:
    """In C order and the machine's byte order. Raises DeviceError for what holds no numbers, or none at all."""
    if not isinstance(value, np.ndarray) and not isinstance(value, np.generic):
        raise DeviceError(
            f"{name} is {type(value).__name__}, must be a numpy array: np.array(values, dtype) says which numbers the "
            f"shader gets"
        )
    value = np.asarray(value)
    _check_dtype(value.dtype, value.shape, name)
    return np.asarray(value, value.dtype.newbyteorder("="), order="C")


def _check_dtype(dtype: np.dtype, shape: tuple[int, ...], name: str) -> None:
    if dtype.kind not in "iuf" and not (dtype.kind == "V" and dtype.fields):
        raise DeviceError(f"{name} has dtype {dtype}; a shader reads whole numbers and floats")
    if 0 in shape:
        raise DeviceError(
            f"{name} has shape {shape}: it holds nothing, and a storage buffer holds at least one element"
        )


def _result(value, name: str) -> Given:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise DeviceError(f"{name} is {value!r:.60}, must be (shape, dtype), such as ((4, 8), 'float32')")
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
        raise DeviceError(f"{name}: {value[1]!r:.60} is no dtype ({error}); float32 is one") from None
    if any(size < 0 for size in shape):
        raise DeviceError(f"{name} has shape {shape}: sizes are positive")
    _check_dtype(dtype, shape, name)
    return Given(name, shape, dtype, True)


def _interface(name: str, words: dict[int, int], push: tuple[int, ...]) -> Interface:
    """Of words that are packed already, by their numbers."""
    return Interface(
        name, {str(key): (key, "uint") for key in words}, {f"word {at}": "uint" for at in range(len(push))}
    )


def _constants(module: spirv.Module, constants) -> dict[int, int]:
    """{constant_id: word} of all of 32 bits, with their defaults where nothing is given."""
    if not isinstance(constants, (dict, type(None))):
        raise DeviceError(f"constants is {type(constants).__name__}, must be {{constant_id: number}}")
    numbers = {constant.name: number for number, constant in module.constants.items()}
    words = {
        number: constant.default
        for number, constant in module.constants.items()
        if constant.type.bits == 32 or constant.type.kind == "bool"
    }
    for key, value in (constants or {}).items():
        key = numbers.get(key, key) if isinstance(key, str) else key
        declared = module.constants.get(key) if isinstance(key, int) and not isinstance(key, bool) else None
        if declared is None:
            known = (
                ", ".join(f"{each} ({constant.name})" for each, constant in sorted(module.constants.items())) or "none"
            )
            raise DeviceError(f"the shader has no specialization constant {key!r:.60}; it has: {known}")
        if key not in words:
            raise DeviceError(f"constants[{key}] has {declared.type.bits} bits; only constants of 32 bits can be set")
        words[key] = int.from_bytes(pack_scalar(declared.type, value, f"constants[{key}]"), "little")
    return words


def _push(module: spirv.Module, push, info) -> tuple[int, ...]:
    """The push-constant block as words."""
    if isinstance(push, Mapping):
        push = _by_name(module, push)
    values = _flat(_listed(push if not isinstance(push, np.ndarray) else push.tolist(), "push"), "push")
    if module.push is None:
        if values:
            raise DeviceError(f"push has {len(values)} values, and the shader declares no push constants")
        return ()
    size, most = module.push.type.num_bytes, info.limits.max_push_constants_bytes
    if size > most:
        raise DeviceError(f"the push constants take {size} bytes; {info.name} has at most {most}")
    packed = pack_push(module.push.type, values)
    return tuple(np.frombuffer(packed, "<u4").tolist())


def _by_name(module: spirv.Module, push: Mapping) -> list:
    """{member: value} in the order of the push-constant block."""
    names = [member.name for member in module.push.type.members] if module.push else []
    unknown, missing = [name for name in push if name not in names], [name for name in names if name not in push]
    if unknown or missing:
        raise DeviceError(
            f"push has {', '.join(map(repr, push)) or 'no values'}; the shader declares {', '.join(names) or 'none'}"
        )
    return [push[name] for name in names]


def _flat(values: list, name: str, depth: int = 0) -> list:
    """Numbers in vectors, arrays and structs one after the other."""
    if depth > spirv.DEEPEST_TYPE:
        raise DeviceError(f"{name} is nested too deeply")
    flat = []
    for value in values:
        if isinstance(value, np.ndarray):
            value = value.tolist()
        flat += _flat(value, name, depth + 1) if isinstance(value, (list, tuple)) else [value]
        if len(flat) > MOST_PUSH_VALUES:
            raise DeviceError(f"{name} has more than {MOST_PUSH_VALUES} values")
    return flat
