"""Shader variants by name -> SPIR-V -> kernels, cached per device and, across processes, in the driver's pipeline
cache.

In: `shaders/variants.toml`. An installed package finds the SPIR-V that the build made beside the native extension; a
source checkout compiles what changed on first use (glslangValidator), so that a shader can be edited and run at
once.
"""

import codecs
import importlib.util
import json
import subprocess
import tempfile
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path

from .. import _native, settings
from ..errors import DeviceError
from .interface import Interface
from .spirv import read

TEXEL_BYTES = {"rgba32ui": 16, "r32ui": 4, "rgba32f": 16, "r32f": 4}
TEXEL_KINDS = {"rgba32ui": 1, "r32ui": 2, "rgba32f": 3, "r32f": 4}  # native.cpp, TEXEL_FORMATS
TARGETS = ("vulkan1.0", "vulkan1.1", "vulkan1.2", "vulkan1.3")
SOURCES = Path(__file__).resolve().parents[2] / "shaders"
INSTALLED = Path(_native.__file__).parent / "spirv"


@lru_cache(maxsize=1)
def variants() -> dict[str, dict]:
    """name -> {"requires": [device features], "texel": {binding: format}, "constants": ..., "push": ..., ...}."""
    found = _builder().expand(SOURCES / "variants.toml") if _has_sources() else _installed()["variants"]
    return {variant["name"]: variant for variant in found}


def _has_sources() -> bool:
    return (SOURCES / "variants.toml").exists()


@lru_cache(maxsize=1)
def _installed() -> dict:
    """What the build left beside the extension: the variants, and a digest of the sources that they were made from."""
    path = INSTALLED / "variants.json"
    return json.loads(path.read_text()) if path.exists() else {"digest": "", "variants": []}


@lru_cache(maxsize=1)
def _builder():
    spec = importlib.util.spec_from_file_location("vkbackend_shader_build", SOURCES / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
def _sources_digest() -> str:
    return _builder().sources_digest(SOURCES)


def digest() -> str:
    """Changes with every shader's source."""
    return (_sources_digest() if _has_sources() else _installed()["digest"])[:16]


@cache
def spirv(name: str) -> bytes:
    """SPIR-V of a variant. Raises DeviceError where it is unknown or does not compile."""
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


_added: dict[str, Interface] = {}  # of shaders that `KernelCache.add` brought, by name


def interface(name: str) -> Interface:
    """The constants of a variant, or of a shader that was added. Raises DeviceError where it is unknown."""
    found = _interface_of_variant(name) or _added.get(name)
    if found is None:
        raise DeviceError(f"there is no shader variant {name!r}; see shaders/variants.toml")
    return found


@cache
def _interface_of_variant(name: str) -> Interface | None:
    variant = variants().get(name)
    return variant and Interface(
        name, {constant: tuple(each) for constant, each in variant["constants"].items()}, variant["push"]
    )


def compile_glsl(source: str | bytes, target: str = "vulkan1.1") -> bytes:
    """Any compute shader's GLSL -> SPIR-V, for `Device.kernels.add`. target: the Vulkan version that it is compiled
    for.

    Raises DeviceError with the compiler's message, whatever bytes the source holds, and where the compiler is
    missing.
    """
    if target not in TARGETS:
        raise DeviceError(f"target is {target!r}; there are: {', '.join(TARGETS)}")
    if not isinstance(source, (str, bytes)):
        raise DeviceError(f"the GLSL is {type(source).__name__}, must be a text")
    data = source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass")
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\0" in data:
        raise DeviceError(f"GLSL does not compile: byte {data.index(0)} is NUL, where the compiler would stop reading")
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


class KernelCache:
    """Kernels of one device by (variant, constants, subgroup size)."""

    def __init__(self, device):
        self.device = device
        self._kernels = {}
        self._extra: dict[str, dict] = {}

    def add(self, name: str, code: bytes, requires=(), texel=None, interface: Interface | None = None) -> None:
        """Make SPIR-V from elsewhere usable under `name` in a Dispatch; one that has a variant's name takes its
        place, with its constants.

        interface: the names of its constants; None for those that the SPIR-V has. Raises DeviceError where these are
        not 32 bits each.
        """
        self._extra[name] = {"spirv": code, "requires": list(requires), "texel": texel or {}}
        _added[name] = interface or Interface.of_module(name, read(code))

    def missing(self, name: str) -> list[str]:
        """Features that the variant needs and the device lacks; empty where it can run. Raises DeviceError where it
        is unknown.
        """
        return [feature for feature in self._variant(name)["requires"] if not self.device.supports(feature)]

    def _variant(self, name: str) -> dict:
        variant = self._extra.get(name) or variants().get(name)
        if variant is None:
            raise DeviceError(f"there is no shader variant {name!r}; see shaders/variants.toml")
        return variant

    def fitting(self, dispatch):
        """The dispatch, with the variant that reads storage buffers in place of one whose texel buffers would be
        larger than the device allows. Raises DeviceError where there is no such variant.
        """
        limit = self.device.info.limits.max_texel_buffer_elements
        buffers = (*dispatch.reads, *dispatch.writes)
        too_large = [
            int(binding)
            for binding, kind in self._variant(dispatch.shader)["texel"].items()
            if int(binding) < len(buffers) and buffers[int(binding)].num_bytes // TEXEL_BYTES[kind] > limit
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

    def get(self, dispatch) -> "_native.Kernel":
        """The pipeline for a dispatch. Raises DeviceError where the device lacks what the variant needs."""
        key = _key(dispatch)
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = self._make(dispatch, len(dispatch.reads) + len(dispatch.writes))
        return kernel

    def keys(self) -> set:
        """What there is by now, for `keep`."""
        return set(self._kernels)

    def keep(self, keys: set, dispatches) -> None:
        """Let go of all kernels but those of `keys` and of `dispatches`; what was recorded keeps its own."""
        keys = keys | {_key(dispatch) for dispatch in dispatches}
        self._kernels = {key: kernel for key, kernel in self._kernels.items() if key in keys}

    def _make(self, dispatch, num_bindings):
        from .failures import translated

        name, info = dispatch.shader, self.device.info
        missing = self.missing(name)  # creating a pipeline whose capability the driver lacks may end the process
        if missing:
            raise DeviceError(f"{info.name} lacks {', '.join(missing)}, which shader variant {name} needs")
        variant = self._variant(name)
        code = variant["spirv"] if "spirv" in variant else spirv(name)
        texel = {int(binding): kind for binding, kind in variant["texel"].items()}
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
        """Write the driver's pipeline cache for the next process (whole or not at all). Where that cannot be done,
        it is logged.
        """
        path = _cache_path(self.device.info)
        data = self.device._context.cache_data()
        kept = settings.read_checked(path)
        if kept is None or len(kept) != len(data):
            settings.write_checked(path, data)

    def clear(self) -> None:
        self._kernels.clear()


def _key(dispatch) -> tuple:
    return (
        dispatch.shader,
        dispatch.constant_words,
        dispatch.subgroup_size,
        len(dispatch.reads) + len(dispatch.writes),
        len(dispatch.push_words),
    )


def _cache_path(info) -> Path:
    return settings.cache_folder() / "pipelines" / f"{info.key}.bin"


def load_pipeline_cache(info) -> bytes:
    """What an earlier process saved; empty where that is damaged: drivers check the header, and trust what follows."""
    return settings.read_checked(_cache_path(info)) or b""
