"""How many threads the CPU path takes."""

import logging
import os
import threading
from pathlib import Path

from ..device import cgroups
from ..device.host_memory import usable_cores

CORES = Path("/sys/devices/system/cpu")
PER_CORE = 2  # threads that a request may ask for: more only wait for each other

log = logging.getLogger(__name__)


def usable_threads(wanted: int) -> int:
    """`wanted` threads, or `default_threads` for 0 or less; at most `PER_CORE` for each core that this process may use,
    and no more than the system lets it start.
    """
    if wanted <= 0:
        return startable(default_threads())
    most = PER_CORE * usable_cores()
    if wanted > most:
        log.warning("num_thread %d lowered to %d: this process may use %d cores", wanted, most, most // PER_CORE)
    return startable(min(wanted, most))


def startable(wanted: int) -> int:
    """`wanted`, or as many threads as the system lets this process run, its own included. libgomp ends the process if
    it cannot start a thread, so this starts them first.
    """
    done = threading.Event()
    started: list[threading.Thread] = []
    try:
        while len(started) < wanted - 1:
            thread = threading.Thread(target=done.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        spare = 2  # for what else starts threads meanwhile
        allowed = max(1, len(started) + 1 - spare)
        log.warning(
            "the system lets this process start no more threads: the CPU path takes %d, not %d", allowed, wanted
        )
        return allowed
    finally:
        done.set()
        for thread in started:
            thread.join()
    return wanted


def default_threads() -> int:
    """The physical cores that this process may use: within its affinity and the CPU quota of its control groups."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(cpu) for cpu in allowed}
    quota = cgroups.cpu_quota()
    return max(1, len(cores) if quota is None else min(len(cores), int(quota)))


def _siblings(cpu: int) -> str:
    """The hardware threads of the core that `cpu` belongs to, as the system writes them."""
    try:
        return (CORES / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)
