"""How many threads the CPU path takes."""

import os
from pathlib import Path

from ..device import cgroups

CORES = Path("/sys/devices/system/cpu")


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
