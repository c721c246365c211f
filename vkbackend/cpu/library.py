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

from .. import settings

SPINS = "20000"  # about a tenth of a millisecond
SECONDS = 60  # for the trial, which takes about one

log = logging.getLogger(__name__)


def ggml() -> ModuleType | None:
    """The module `ggml`; None if VKBACKEND_CPU is exact, or if it is missing or fails its trial (logged once)."""
    return _tried() if settings.get("VKBACKEND_CPU") == "ggml" else None


@lru_cache(maxsize=1)
def _tried() -> ModuleType | None:
    if importlib.util.find_spec("ggml") is None or importlib.util.find_spec("vkbackend._cpu") is None:
        log.warning(
            "ggml is not installed, so the CPU path expands weights to float32, which takes several times the memory "
            "and time; install the extra vkbackend[cpu] (scripts/setup.sh builds it)"
        )
        return None
    failure = _remembered_trial()
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
    return importlib.import_module("ggml")


def _remembered_trial() -> str:
    """`_trial`, once for each build of the library, kind of CPU and version of the kernels."""
    path = settings.cache_folder() / "ggml" / f"tried-{_fingerprint()}"
    if settings.read_cached(path) is not None:
        return ""
    failure = _trial()
    if not failure:
        settings.write_whole(path, b"")
    return failure


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


def _trial() -> str:
    """Why ggml cannot be used; empty if it can."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "vkbackend.cpu.trial"], capture_output=True, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"its trial was ended by signal {-done.returncode}"
    return (done.stderr.strip().splitlines() or ["its trial failed"])[-1]
