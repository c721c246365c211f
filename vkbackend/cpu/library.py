"""Finds ggml for the CPU path: the optional package ggml-python, tried in a child process first.

A ggml that was built on another machine may use instructions that this CPU lacks, and a damaged one may end the
process. So a child (`trial.py`) computes products and compares their bits before this process imports anything.
"""

import hashlib
import importlib
import importlib.util
import logging
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from .. import settings

SPINS = "1000"  # some microseconds
SECONDS = 300  # for the trial, which takes about one; on a machine with 20 busy processes it took 17

log = logging.getLogger(__name__)


class Library(NamedTuple):
    """own_products: formats whose products by kernels of `vkbackend._cpu` had the bits of ggml's in the trial."""

    ggml: ModuleType
    own_products: frozenset[str]


def ggml() -> ModuleType | None:
    """The module `ggml`; None if VKBACKEND_CPU is exact, or if it is missing or fails its trial (logged once)."""
    library = _library()
    return None if library is None else library.ggml


def own_products() -> frozenset[str]:
    """`Library.own_products`; empty without ggml."""
    library = _library()
    return frozenset() if library is None else library.own_products


def _library() -> Library | None:
    return _tried() if settings.get("VKBACKEND_CPU") == "ggml" else None


@lru_cache(maxsize=1)
def _tried() -> Library | None:
    if importlib.util.find_spec("ggml") is None or importlib.util.find_spec("vkbackend._cpu") is None:
        log.warning(
            "ggml is not installed, so the CPU path expands weights to float32, which takes several times the memory "
            "and time; install the extra vkbackend[cpu] (scripts/setup.sh builds it)"
        )
        return None
    failure, own = _remembered_trial()
    if failure:
        log.warning(
            "ggml does not work on this machine (%s), so the CPU path expands weights to float32, which takes several "
            "times the memory and time; build the extra vkbackend[cpu] again (scripts/setup.sh does so)",
            failure,
        )
        return None
    # libgomp's threads spin at barriers, by default for milliseconds, which on a busy machine takes the processor from
    # the thread that they wait for. libgomp reads this when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    return Library(importlib.import_module("ggml"), own)


def _remembered_trial() -> tuple[str, frozenset[str]]:
    """`_trial`, once for each build of the library, kind of CPU and version of the kernels."""
    path = settings.cache_folder() / "ggml" / f"tried-{_fingerprint()}"
    remembered = settings.read_cached(path)
    if remembered is not None:
        return "", frozenset(remembered.decode(errors="replace").split())
    failure, own = _trial()
    if not failure:
        settings.write_whole(path, " ".join(sorted(own)).encode())
    return failure, own


def _fingerprint() -> str:
    found = hashlib.sha256(cpu_flags().encode())
    for name in ("ggml", "vkbackend._cpu"):
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None, "both modules were found"
        origin = Path(spec.origin)
        for file in sorted((origin.parent / "lib").glob("*")) if name == "ggml" else [origin]:
            status = file.stat()
            found.update(f"{file} {status.st_size} {status.st_mtime_ns}".encode())
    return found.hexdigest()[:16]


def cpu_flags() -> str:
    """The instructions that this CPU has, as Linux lists them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _trial() -> tuple[str, frozenset[str]]:
    """Why ggml cannot be used, empty if it can; and the formats whose products are our own kernels."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "vkbackend.cpu.trial"],
            env=os.environ | {"GOMP_SPINCOUNT": SPINS},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error), frozenset()
    if done.returncode == 0:
        return "", frozenset(done.stdout.split())
    if done.returncode < 0:
        return f"its trial was ended by signal {-done.returncode}", frozenset()
    return (done.stderr.strip().splitlines() or ["its trial failed"])[-1], frozenset()
