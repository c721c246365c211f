"""Checks a shader's SPIR-V against its arguments and against the device, before a pipeline or buffer is created.

In: `spirv.Module`, arrays, workgroups, a `DeviceInfo`. Each `check_...` raises DeviceError, which names the item, its
limit and its value.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import DeviceError
from .device_info import DeviceInfo
from .scalars import scalar_name
from .spirv import COMPUTE, STORAGE_BUFFER, UNIFORM, WORKGROUP, Module, Type, Variable

# SPIR-V capabilities that can be enabled, and the feature that each needs; "" if every Vulkan device has it.
CAPABILITIES = {
    0: "",
    1: "",
    9: "float16",
    10: "float64",
    11: "int64",
    22: "int16",
    39: "int8",
    61: "subgroup_basic",
    62: "subgroup_vote",
    63: "subgroup_arithmetic",
    64: "subgroup_ballot",
    65: "subgroup_shuffle",
    66: "subgroup_shuffle_relative",
    67: "subgroup_clustered",
    68: "subgroup_quad",
    4433: "storage16",
    4434: "uniform_storage16",
    4435: "push_constant16",
    4448: "storage8",
    4449: "uniform_storage8",
    4450: "push_constant8",
    5345: "memory_model",
    5346: "memory_model_device_scope",
    6016: "integer_dot_product",
    6017: "integer_dot_product",
    6018: "integer_dot_product",
    6019: "integer_dot_product",
    6022: "cooperative_matrix",
}
# Names of common capabilities that are not enabled, for errors.
NAMES = {
    12: "Int64Atomics",
    43: "Sampled1D",
    44: "Image1D",
    46: "SampledBuffer",
    47: "ImageBuffer",
    50: "ImageQuery",
    4441: "VariablePointersStorageBuffer",
    4442: "VariablePointers",
    5347: "PhysicalStorageBufferAddresses",
    6033: "AtomicFloat32AddEXT",
    6034: "AtomicFloat64AddEXT",
}
SPIRV_OF_VULKAN = {  # Vulkan version -> highest SPIR-V version
    (1, 0): (1, 0),
    (1, 1): (1, 3),
    (1, 2): (1, 5),
    (1, 3): (1, 6),
}
DTYPES = {"int": "i", "uint": "u", "float": "f"}


@dataclass(frozen=True)
class Given:
    """A buffer for a binding. name: such as "inputs[0]". is_output: whether the shader should write it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    is_output: bool

    @property
    def num_bytes(self) -> int:
        """Exact for any shape, unlike products of numpy integers."""
        count = self.dtype.itemsize
        for size in self.shape:
            count *= size
        return count

    def __str__(self) -> str:
        return f"{self.name} ({self.dtype} {self.shape})"


def check_entry(module: Module) -> None:
    """The module needs a compute entry point named main."""
    if not any(entry.name == "main" and entry.model == COMPUTE for entry in module.entry_points):
        found = ", ".join(f"{entry.name} (stage {entry.model})" for entry in module.entry_points) or "none"
        raise DeviceError(f"the shader has no compute entry point main; it has: {found}")


def check_features(module: Module, info: DeviceInfo) -> None:
    """The device must have the module's version and capabilities: creating a pipeline without them may crash the
    process.
    """
    most = max((spirv for vulkan, spirv in SPIRV_OF_VULKAN.items() if vulkan <= info.api[:2]), default=(1, 0))
    if module.version > most:
        raise DeviceError(
            f"the shader is SPIR-V {module.version[0]}.{module.version[1]}; {info.name} (Vulkan "
            f"{info.api[0]}.{info.api[1]}) supports up to "
            f"{most[0]}.{most[1]}: compile it for an older target"
        )
    for number in module.capabilities:
        feature = CAPABILITIES.get(number)
        if feature is None:
            raise DeviceError(
                f"the shader needs the SPIR-V capability {NAMES.get(number, number)}, which is not enabled here"
            )
        if feature and feature not in info.features:
            raise DeviceError(f"{info.name} lacks {feature}, which the shader needs")


def check_bindings(module: Module, given: list[Given], info: DeviceInfo) -> None:
    """The module must declare set 0, bindings 0 ... n - 1, as storage buffers that match the given arrays."""
    what = "; given: " + (", ".join(f"binding {at}: {each}" for at, each in enumerate(given)) or "no buffers")
    seen: dict[int, str] = {}
    for variable in module.bound:
        where = f"set {variable.set or 0}, binding {variable.binding or 0} ({variable.name})"
        kind = _descriptor(variable)
        if kind != "a storage buffer":
            raise DeviceError(f"{where} is {kind}; only storage buffers can be given{what}")
        if variable.set:
            raise DeviceError(f"{where} is outside of set 0, to which inputs and outputs are bound{what}")
        if variable.binding in seen:
            raise DeviceError(f"{where} is declared twice, also as {seen[variable.binding]}{what}")
        if (variable.binding or 0) >= len(given):
            raise DeviceError(f"{where} is declared by the shader, but no array is given for it{what}")
        seen[variable.binding or 0] = variable.name
        _check_fit(where, variable, given[variable.binding or 0])
    for at, each in enumerate(given):
        if at not in seen:
            raise DeviceError(f"set 0, binding {at} is not declared by the shader, but {each} is given for it")
    if len(given) > info.limits.max_storage_buffers:
        raise DeviceError(
            f"{len(given)} storage buffers are bound; {info.name} allows at most {info.limits.max_storage_buffers}"
        )
    for at, each in enumerate(given):
        if each.num_bytes > info.limits.max_storage_buffer_range:
            raise DeviceError(
                f"set 0, binding {at}: {each} takes {each.num_bytes} bytes; {info.name} allows at most "
                f"{info.limits.max_storage_buffer_range} per binding"
            )


def _descriptor(variable: Variable) -> str:
    kind = variable.type
    if kind.kind in ("array", "runtime array"):
        return "an array of descriptors"
    is_struct = variable.storage == STORAGE_BUFFER and kind.kind == "struct"
    if is_struct or (variable.storage == UNIFORM and kind.is_buffer_block):
        return "a storage buffer"
    if variable.storage == UNIFORM:
        return "a uniform buffer"
    return f"an {kind.kind}" if kind.kind[0] in "aiu" else f"a {kind.kind}"


def _check_fit(where: str, variable: Variable, given: Given) -> None:
    if given.is_output and variable.is_readonly:
        raise DeviceError(
            f"{where} is readonly in the shader, and {given.name} is an output: its values would stay zero"
        )
    scalars = _scalars(variable.type)
    if len(scalars) == 1:
        (scalar,) = scalars
        if DTYPES.get(scalar.kind) != given.dtype.kind or scalar.bits != given.dtype.itemsize * 8:
            raise DeviceError(
                f"{where} holds {scalar_name(scalar)}, {given.name} is {given.dtype}: use {scalar_name(scalar)} "
                "(array.astype for the numbers, array.view for the bytes)"
            )
    fixed = variable.type.num_bytes
    if given.num_bytes < fixed:
        raise DeviceError(f"{where} takes at least {fixed} bytes, {given} has {given.num_bytes}")
    members = variable.type.members
    if not members:
        return
    last = members[-1].type
    if last.kind == "runtime array":
        stride = last.stride or last.elements[0].num_bytes
        start = members[-1].offset or 0
        if stride and (given.num_bytes - start) % stride:
            raise DeviceError(
                f"{where} holds elements of {stride} bytes from byte {start} on, {given} has {given.num_bytes} bytes"
            )
    if len(members) == 1 and (last.kind == "runtime array" or (last.kind == "array" and last.count)):
        _check_stride(where, last, given, len(scalars) == 1)


def _check_stride(where: str, array: Type, given: Given, is_plain: bool) -> None:
    """Arrays must contain the gaps between elements that have some, such as vec3."""
    size = array.elements[0].num_bytes
    row_bytes = (given.shape[-1] if given.shape else 1) * given.dtype.itemsize
    if is_plain and array.stride > size > 0 and row_bytes % array.stride:
        raise DeviceError(
            f"{where} holds elements of {size} bytes that are {array.stride} bytes apart, {given} lacks these gaps: "
            f"give rows of {array.stride // given.dtype.itemsize}"
        )


def _scalars(kind: Type) -> set[Type]:
    """The types of all scalars in a type."""
    if kind.is_scalar:
        return {kind}
    if kind.kind == "struct":
        return set().union(*(_scalars(member.type) for member in kind.members))
    return _scalars(kind.element) if kind.element else {kind}


def check_workgroups(
    module: Module, groups: tuple[int, int, int], constants: dict[int, int], subgroup_size: int, info: DeviceInfo
) -> None:
    """The size and number of workgroups, shared memory and subgroups must be within the device's limits. constants:
    words of specialization constants by id.
    """
    limits, name = info.limits, info.name
    for axis, count, most in zip("xyz", groups, limits.max_workgroup_count):
        if not 1 <= count <= most:
            raise DeviceError(f"groups has {count} workgroups in {axis}; {name} allows 1 to {most}")
    sizes = module.sizes(constants)
    if len(sizes) != 3:
        raise DeviceError("the shader declares no local size; add layout(local_size_x = 64) in;")
    for axis, size, most in zip("xyz", sizes, limits.max_workgroup_size):
        if not 1 <= size <= most:
            raise DeviceError(f"local_size_{axis} is {size}; {name} allows 1 to {most}")
    invocations = sizes[0] * sizes[1] * sizes[2]
    if invocations > limits.max_workgroup_invocations:
        raise DeviceError(
            f"a workgroup of {sizes[0]} x {sizes[1]} x {sizes[2]} has {invocations} invocations; {name} allows at most "
            f"{limits.max_workgroup_invocations}"
        )
    shared = sum(each.type.num_bytes for each in module.variables if each.storage == WORKGROUP)
    if shared > limits.max_shared_memory_bytes:
        raise DeviceError(
            f"the shader has {shared} bytes of shared memory; {name} has {limits.max_shared_memory_bytes}"
        )
    if not subgroup_size:
        return
    if subgroup_size not in info.subgroup_sizes:
        raise DeviceError(
            f"subgroup_size is {subgroup_size}; {name} has "
            f"{', '.join(map(str, info.subgroup_sizes)) or info.subgroup_size}"
        )
    if sizes[0] % subgroup_size:
        raise DeviceError(
            f"local_size_x is {sizes[0]}; it must be a multiple of subgroup_size, which is {subgroup_size}"
        )
    if "subgroup_size_control" in info.features and invocations > subgroup_size * limits.max_workgroup_subgroups:
        raise DeviceError(
            f"a workgroup of {invocations} invocations needs more subgroups of {subgroup_size} than the "
            f"{limits.max_workgroup_subgroups} that {name} allows"
        )
