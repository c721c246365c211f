"""Which Vulkan drivers the tests can run on, and how a process is started on one of them.

Out: `DRIVERS`, `DEFAULT`, `run_on(driver, program, ...)`. One process has one loader configuration, so a test that
wants a certain driver, two drivers, none, or a validation layer runs its body in a subprocess whose environment says
so.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from places import ROOT, SUPPORT

from vkbackend import settings

LAVAPIPE_FOLDERS = ("/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d")


@dataclass(frozen=True)
class Driver:
    """A software Vulkan driver. manifest: its ICD file, None where it is not installed; hint: how to get it."""

    name: str
    manifest: Path | None
    hint: str

    @property
    def environment(self) -> dict[str, str]:
        return {"VK_DRIVER_FILES": str(self.manifest), "VK_ICD_FILENAMES": str(self.manifest)}

    def require(self) -> "Driver":
        """Itself; skips the test by name where the driver is missing, and fails it where CI=1 says that it must be
        there.
        """
        if self.manifest is None:
            missing(f"Vulkan driver {self.name} is not installed ({self.hint})")
        return self


def missing(reason: str) -> None:
    """What a test can do that lacks something outside of the repository: fail where CI promises it, else skip."""
    if in_ci():
        pytest.fail(f"{reason}; CI must have it", pytrace=False)
    pytest.skip(reason)


def impossible(reason: str) -> None:
    """Skip a test for which this kind of machine gives no permission. CI's machines may be of that kind."""
    pytest.skip(reason)


def in_ci() -> bool:
    return os.environ.get("CI", "") not in ("", "0", "false")


def chromium_folder() -> Path:
    """Where scripts/setup.sh puts SwiftShader and a newer validation layer, out of Debian's package chromium-common."""
    return settings.cache_folder() / "swiftshader" / "usr" / "lib" / "chromium"


def _lavapipe() -> Path | None:
    found = [path for folder in LAVAPIPE_FOLDERS for path in sorted(Path(folder).glob("lvp_icd*.json"))]
    return found[0] if found else None


def _swiftshader() -> Path | None:
    manifest = chromium_folder() / "vk_swiftshader_icd.json"
    return manifest if manifest.exists() and (manifest.parent / "libvk_swiftshader.so").exists() else None


LAVAPIPE = Driver("lavapipe", _lavapipe(), "Debian: apt-get install mesa-vulkan-drivers")
SWIFTSHADER = Driver("swiftshader", _swiftshader(), "scripts/setup.sh fetches it")
DRIVERS = (LAVAPIPE, SWIFTSHADER)
DEFAULT = LAVAPIPE


def start(program: str | Path, *arguments, environment: dict[str, str] | None = None) -> subprocess.Popen:
    """Start Python on a file of tests/ (a Path) or on source text, with `environment` laid over this process's."""
    command = [str(SUPPORT / program)] if isinstance(program, Path) else ["-c", program]
    paths = str(SUPPORT)
    return subprocess.Popen(
        [sys.executable, *command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths} | (environment or {}),
    )


def finish(process: subprocess.Popen, seconds: float = 600):
    """Wait for a started program; -> the JSON of the last line that it printed. Fails with its errors where it ended
    badly.
    """
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"no end after {seconds} s\n{out[-2000:]}\n{err[-4000:]}", pytrace=False)
    if process.returncode:
        pytest.fail(f"exit status {process.returncode}\n{out[-2000:]}\n{err[-4000:]}", pytrace=False)
    # A validation layer may print after the program's own last line, when the process ends.
    return json.loads([line for line in out.splitlines() if not line.startswith("Validation Layer Info")][-1])


def finish_all(processes: list[subprocess.Popen], seconds: float = 600) -> list:
    """Wait for programs that run at the same time; where one fails, the others are ended."""
    try:
        return [finish(process, seconds) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def run_on(
    driver: Driver | None,
    program: str | Path,
    *arguments,
    environment: dict[str, str] | None = None,
    seconds: float = 600,
):
    """Run to the end; driver None: whatever `environment` says."""
    chosen = driver.require().environment if driver else {}
    return finish(start(program, *arguments, environment=chosen | (environment or {})), seconds)
