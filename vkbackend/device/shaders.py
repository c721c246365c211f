"""Shader variants by name -> SPIR-V -> kernels, cached per device and, across processes, in the driver's pipeline
cache.

In: `shaders/variants.toml`. An installed package finds the SPIR-V that the build placed next to the native extension. A
source checkout compiles changed shaders on first use (glslangValidator), so that they can be edited and run at once.
"""

import codecs
import importlib.util
import json
import subprocess
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .. import _native, settings
from ..errors import DeviceError
from .device_info import DeviceInfo
from .failures import translated
from .interface import Interface
from .spirv_reader import read

if TYPE_CHECKING:
    from .context import Device
    from .dispatch import Dispatch

TEXEL_BYTES = {"rgba32ui": 16, "r32ui": 4, "rgba32f": 16, "r32f": 4}
TEXEL_KINDS = {"rgba32ui": 1, "r32ui": 2, "rgba32f": 3, "r32f": 4}  # native.cpp, TEXEL_FORMATS
TARGETS = ("vulkan1.0", "vulkan1.1", "vulkan1.2", "vulkan1.3")
SOURCES = Path(__file__).resolve().parents[2] / "shaders"
INSTALLED = Path(_native.__file__).parent / "spirv"
MOST_ADDED = 64  # shaders from elsewhere that a device keeps


@lru_cache(maxsize=1)
def variants() -> dict[str, dict]:
    """name -> {"requires": [device features], "texel": {binding: format}, "constants": ..., "push": ..., ...}."""
    found = _builder().expand(SOURCES / "variants.toml") if _has_sources() else _installed()["variants"]
    return {variant["name"]: variant for variant in found}


def _has_sources() -> bool:
    return (SOURCES / "variants.toml").exists()


@lru_cache(maxsize=1)
def _installed() -> dict:
    """The build's variants.json: the variants, and a digest of the sources that they were built from."""
    path = INSTALLED / "variants.json"
    return json.loads(path.read_text()) if path.exists() else {"digest": "", "variants": []}


@lru_cache(maxsize=1)
def _builder() -> ModuleType:
    """shaders/build.py as a module."""
    spec = importlib.util.spec_from_file_location("vkbackend_shader_build", SOURCES / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
def _sources_digest() -> str:
    return _builder().sources_digest(SOURCES)


def digest() -> str:
    """A hash that changes with the source of any shader."""
    return (_sources_digest() if _has_sources() else _installed()["digest"])[:16]


@cache
def spirv(name: str) -> bytes:
    """SPIR-V of a variant. Raises DeviceError if it is unknown or does not compile."""
    if name not in variants():
        raise DeviceError(f"there is no shader variant {name!r}; see shaders/variants.toml")
    if not _has_sources() or _installed()["digest"] == _sources_digest():
        return (INSTALLED / f"{name}.spv").read_bytes()
    variant = variants()[name]
    path = settings.cache_folder() / "spirv" / _sources_digest()[:16] / f"{name}.spv"
    code = settings.read_checked(path)
    if code is None:
        code = _compiled(variant)
        settings.write_checked(path, code)
    return code


def _compiled(variant: dict) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "variant.spv"
        try:
            _builder().compile_variant(SOURCES, variant, path)
        except subprocess.CalledProcessError as error:
            raise DeviceError(f"shader variant {variant['name']}: {error.stdout}") from error
        return path.read_bytes()


# By name, of shaders that `KernelCache.add` added: a Dispatch is made without a device. They live as long as one of the
# caches keeps them.
_added: weakref.WeakValueDictionary[str, Interface] = weakref.WeakValueDictionary()


def interface(name: str) -> Interface:
    """The constants of a variant or an added shader. Raises DeviceError if it is unknown."""
    found = _interface_of_variant(name) or _added.get(name)
    if found is None:
        raise DeviceError(f"there is no shader variant {name!r}; see shaders/variants.toml")
    return found


@cache
def _interface_of_variant(name: str) -> Interface | None:
    variant = variants().get(name)
    if variant is None:
        return None
    constants = {constant: (number, kind) for constant, (number, kind) in variant["constants"].items()}
    return Interface(name, constants, variant["push"])


def compile_glsl(source: str | bytes, target: str = "vulkan1.1") -> bytes:
    """Compile the GLSL of any compute shader to SPIR-V, for `Device.kernels.add`. target: the Vulkan version to compile
    for.

    Raises DeviceError with the compiler's message for any invalid source, and if the compiler is missing.
    """
    if target not in TARGETS:
        raise DeviceError(f"target is {target!r}; it must be one of {', '.join(TARGETS)}")
    if not isinstance(source, (str, bytes)):
        raise DeviceError(f"the GLSL is {type(source).__name__}; it must be a str or bytes")
    data = source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass")
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\0" in data:
        raise DeviceError(
            f"GLSL does not compile: byte {data.index(0)} is NUL, at which the compiler would stop reading"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shader.comp"
        path.write_bytes(data)
        command = ["glslangValidator", "-V", "--target-env", target, f"-I{SOURCES}", "-o", f"{path}.spv", str(path)]
        try:
            done = subprocess.run(command, capture_output=True)
        except OSError as error:
            raise DeviceError(
                f"the GLSL compiler glslangValidator cannot be run ({error.strerror or error}); install it "
                "(Debian: apt-get install glslang-tools)"
            ) from error
        compiled = Path(f"{path}.spv")
        if done.returncode or not compiled.exists():
            said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
            raise DeviceError(
                f"GLSL does not compile:\n{said or f'glslangValidator ended with status {done.returncode}'}"
            )
        return compiled.read_bytes()


Key = tuple[str, tuple[tuple[int, int], ...], int, int, int]


@dataclass(frozen=True)
class _Added:
    """SPIR-V from elsewhere. requires, texel: as in variants.toml."""

    code: bytes
    requires: tuple[str, ...]
    texel: Mapping[str, str]
    interface: Interface


class KernelCache:
    """Kernels of one device by (variant, constants, subgroup size)."""

    def __init__(self, device: "Device"):
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
        interface = interface or Interface.of_module(name, read(code))
        known = _added.get(name)
        if known is not None and known == interface:
            interface = known  # shared between devices: it lives as long as one of them keeps it
        _added[name] = interface
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

    def fitting(self, dispatch: "Dispatch") -> "Dispatch":
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

    def get(self, dispatch: "Dispatch") -> _native.Kernel:
        """The pipeline for a dispatch. Raises DeviceError if the device lacks a feature that the variant needs."""
        key = _key(dispatch)
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = self._make(dispatch, len(dispatch.reads) + len(dispatch.writes))
        return kernel

    def keys(self) -> set[Key]:
        """The current kernels, for `keep`."""
        return set(self._kernels)

    def keep(self, keys: set[Key], dispatches: Sequence["Dispatch"]) -> None:
        """Drop all kernels except those of `keys` and of `dispatches`. Recordings keep the kernels they use."""
        keys = keys | {_key(dispatch) for dispatch in dispatches}
        self._kernels = {key: kernel for key, kernel in self._kernels.items() if key in keys}

    def _make(self, dispatch: "Dispatch", num_bindings: int) -> _native.Kernel:
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


def _key(dispatch: "Dispatch") -> Key:
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
