"""The check of every kernel on each driver, begun with the session and run beside it: it takes minutes of both cores,
and most tests before it leave one idle.
"""

import subprocess
from pathlib import Path

import psutil
from vulkan_drivers import DRIVERS, Driver, finish_all, start

SECONDS = 1400  # with cold caches of pipelines, llvmpipe compiles for ten minutes
_running: dict[Driver, subprocess.Popen] = {}


def begin() -> None:
    """Start the checks, at the lowest priority."""
    for driver in DRIVERS:
        if driver.manifest and driver not in _running:
            _running[driver] = start(Path("run_check.py"), environment=driver.environment)
            psutil.Process(_running[driver].pid).nice(19)


def results() -> dict[Driver, dict]:
    """What tests/support/run_check.py found on each driver."""
    begin()
    return dict(zip(_running, finish_all(list(_running.values()), SECONDS)))


def end() -> None:
    """End checks that still run."""
    for process in _running.values():
        if process.poll() is None:
            process.kill()
            process.wait()
