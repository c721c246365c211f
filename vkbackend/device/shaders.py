"""Shader variants by name -> SPIR-V, and the names of their constants.

In: `shaders/variants.toml`. An installed package finds the SPIR-V that the build placed next to the native extension. A
source checkout compiles changed shaders on first use (glslangValidator), so that they can be edited and run at once.
"""

import codecs
import importlib.util
import json
import subprocess
import tempfile
import weakref
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType

from .. import _native, settings
from ..errors import DeviceError
from .interface import Interface

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


# By name, of shaders that `kernel_cache.KernelCache.add` added: a Dispatch is made without a device. They live as
# long as one of the caches keeps them.
_added: weakref.WeakValueDictionary[str, Interface] = weakref.WeakValueDictionary()


def interface(name: str) -> Interface:
    """The constants of a variant or an added shader. Raises DeviceError if it is unknown."""
    found = _interface_of_variant(name) or _added.get(name)
    if found is None:
        raise DeviceError(f"there is no shader variant {name!r}; see shaders/variants.toml")
    return found


def share_interface(name: str, interface: Interface) -> Interface:
    """Make the interface of an added shader known under `name`. Returns an equal one if it is known: it is shared
    between devices and lives as long as one of them keeps it.
    """
    known = _added.get(name)
    if known is not None and known == interface:
        interface = known
    _added[name] = interface
    return interface


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
