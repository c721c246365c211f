"""Kernels: the pipelines of one device, kept for its lifetime and, across processes, in the driver's pipeline cache.

In: a `Dispatch`. Out: the `_native.Kernel` that runs it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from .. import _native, settings
from ..errors import DeviceError
from .device_info import DeviceInfo
from .dispatch import Dispatch
from .failures import translated
from .interface import Interface
from .shaders import share_interface, spirv, variants
from .spirv_reader import read

TEXEL_BYTES = {"rgba32ui": 16, "r32ui": 4, "rgba32f": 16, "r32f": 4}
TEXEL_KINDS = {"rgba32ui": 1, "r32ui": 2, "rgba32f": 3, "r32f": 4}  # native.cpp, TEXEL_FORMATS
MOST_ADDED = 64  # shaders from elsewhere that a device keeps

Key = tuple[str, tuple[tuple[int, int], ...], int, int, int]


@dataclass(frozen=True)
class _Added:
    """SPIR-V from elsewhere. requires, texel: as in variants.toml."""

    code: bytes
    requires: tuple[str, ...]
    texel: Mapping[str, str]
    interface: Interface


class KernelDevice(Protocol):
    """The part of `context.Device` that kernels are made with."""

    info: DeviceInfo
    _context: _native.Context

    def supports(self, feature: str) -> bool:
        """Whether the device has a feature of `device_info.FEATURES`, or a size of cooperative matrices."""
        ...


class KernelCache:
    """Kernels of one device by (variant, constants, subgroup size)."""

    def __init__(self, device: KernelDevice):
        self.device = device
        self._kernels: dict[Key, _native.Kernel] = {}
        self._added: dict[str, _Added] = {}

    def add(
        self,
        name: str,
        code: bytes,
        requires: Iterable[str] = (),
        texel: Mapping[str, str] | None = None,
        interface: Interface | None = None,
    ) -> None:
        """Make SPIR-V from elsewhere usable under `name` in a Dispatch. It replaces a variant of that name, whose names
        of constants stay in use.

        Only the last MOST_ADDED are kept, until the device is closed or reopened. interface: the names of its
        constants; None takes them from the SPIR-V. Raises DeviceError if these are not 32 bits each.
        """
        interface = share_interface(name, interface or Interface.of_module(name, read(code)))
        self._added.pop(name, None)
        self._added[name] = _Added(code, tuple(requires), texel or {}, interface)
        while len(self._added) > MOST_ADDED:
            oldest = next(iter(self._added))
            del self._added[oldest]
            self._kernels = {key: kernel for key, kernel in self._kernels.items() if key[0] != oldest}

    def missing(self, name: str) -> list[str]:
        """Features that the variant needs and the device lacks. Raises DeviceError if the variant is unknown."""
        added = self._added.get(name)
        requires = added.requires if added else self._variant(name)["requires"]
        return [feature for feature in requires if not self.device.supports(feature)]

    def _variant(self, name: str) -> dict:
        variant = variants().get(name)
        if variant is None:
            raise DeviceError(f"there is no shader variant {name!r}; see shaders/variants.toml")
        return variant

    def _texel(self, name: str) -> dict[int, str]:
        """{binding: format} of the bindings that are texel buffers."""
        added = self._added.get(name)
        texel = added.texel if added else self._variant(name)["texel"]
        return {int(binding): kind for binding, kind in texel.items()}

    def fitting(self, dispatch: Dispatch) -> Dispatch:
        """The dispatch; with a variant that reads storage buffers if its texel buffers would exceed the device's limit.
        Raises DeviceError if there is no such variant.
        """
        limit = self.device.info.limits.max_texel_buffer_elements
        buffers = (*dispatch.reads, *dispatch.writes)
        too_large = [
            binding
            for binding, kind in self._texel(dispatch.shader).items()
            if binding < len(buffers) and buffers[binding].num_bytes // TEXEL_BYTES[kind] > limit
        ]
        if not too_large:
            return dispatch
        for flavor in ("_subgroup", "_base"):
            other = dispatch.shader.removesuffix("_texel") + flavor
            if other in variants() and not self.missing(other):
                return replace(dispatch, shader=other)
        raise DeviceError(
            f"{self.device.info.name}: texel buffers hold at most {limit} elements, binding {too_large[0]} of "
            f"{dispatch.shader} has more"
        )

    def get(self, dispatch: Dispatch) -> _native.Kernel:
        """The pipeline for a dispatch. Raises DeviceError if the device lacks a feature that the variant needs."""
        key = _key(dispatch)
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = self._make(dispatch, len(dispatch.reads) + len(dispatch.writes))
        return kernel

    def keys(self) -> set[Key]:
        """The current kernels, for `keep`."""
        return set(self._kernels)

    def keep(self, keys: set[Key], dispatches: Sequence[Dispatch]) -> None:
        """Drop all kernels except those of `keys` and of `dispatches`. Recordings keep the kernels they use."""
        keys = keys | {_key(dispatch) for dispatch in dispatches}
        self._kernels = {key: kernel for key, kernel in self._kernels.items() if key in keys}

    def _make(self, dispatch: Dispatch, num_bindings: int) -> _native.Kernel:
        name = dispatch.shader
        info = self.device.info
        missing = self.missing(name)  # creating a pipeline whose capability the driver lacks may end the process
        if missing:
            raise DeviceError(f"{info.name} lacks {', '.join(missing)}, which shader variant {name} needs")
        added = self._added.get(name)
        code = added.code if added else spirv(name)
        texel = self._texel(name)
        if dispatch.subgroup_size and not info.subgroup_min <= dispatch.subgroup_size <= info.subgroup_max:
            raise DeviceError(
                f"{info.name} has subgroups of {info.subgroup_min}-{info.subgroup_max}, not {dispatch.subgroup_size} "
                f"({name})"
            )
        required = dispatch.subgroup_size if "subgroup_size_control" in info.features else 0
        bindings = [TEXEL_KINDS[texel[binding]] if binding in texel else 0 for binding in range(num_bindings)]
        with translated(f"{info.name}: making kernel {name}"):
            return _native.Kernel(
                self.device._context, code, bindings, len(dispatch.push_words), dict(dispatch.constant_words), required
            )

    def save(self) -> None:
        """Write the driver's pipeline cache for the next process, atomically. A failure is logged."""
        path = _cache_path(self.device.info)
        data = self.device._context.cache_data()
        kept = settings.read_checked(path)
        if kept is None or len(kept) != len(data):
            settings.write_checked(path, data)

    def clear(self) -> None:
        """Drop all kernels and added shaders."""
        self._kernels.clear()
        self._added.clear()


def _key(dispatch: Dispatch) -> Key:
    return (
        dispatch.shader,
        dispatch.constant_words,
        dispatch.subgroup_size,
        len(dispatch.reads) + len(dispatch.writes),
        len(dispatch.push_words),
    )


def _cache_path(info: DeviceInfo) -> Path:
    return settings.cache_folder() / "pipelines" / f"{info.key}.bin"


def load_pipeline_cache(info: DeviceInfo) -> bytes:
    """The cache that an earlier process saved; empty if it is missing or damaged: drivers check only its header and
    trust the rest.
    """
    return settings.read_checked(_cache_path(info)) or b""
