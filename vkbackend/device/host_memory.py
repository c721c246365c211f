"""The host's memory, this process's share of it, and a way to return free heap memory to the system.

psutil is imported on first use: commands that only speak HTTP start faster without it.
"""

import ctypes
import math
import os

from . import cgroups


def available_host_memory() -> int:
    """Bytes that this process can allocate without swapping: MemAvailable on Linux, within the limits of its control
    groups.
    """
    import psutil

    return _within(psutil.virtual_memory().available, cgroups.available_memory())


def total_host_memory() -> int:
    """Bytes of physical memory, within the limits of this process's control groups."""
    import psutil

    return _within(psutil.virtual_memory().total, cgroups.memory_limit())


def free_swap() -> int:
    """Unused bytes of swap space, within the limits of this process's control groups; 0 if there is none."""
    import psutil

    return _within(psutil.swap_memory().free, cgroups.available_swap())


def _within(num_bytes: int, limit: int | None) -> int:
    return num_bytes if limit is None else min(num_bytes, limit)


def resident_bytes() -> int:
    """Resident memory of this process, including the pages of mapped files and drivers."""
    import psutil

    return psutil.Process().memory_info().rss


def peak_resident_bytes() -> int:
    """Highest value of `resident_bytes` since the process began; 0 if the system does not report it.

    Not getrusage's ru_maxrss: after a fork and exec that still counts the parent's memory.
    """
    try:
        with open("/proc/self/status") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
    except OSError:  # not Linux
        return 0


def usable_cores() -> int:
    """Number of cores that this process may use: all, unless the system restricts it (taskset, containers). A quota of
    CPU time counts as that many cores, rounded up.
    """
    import psutil

    process = psutil.Process()
    cores = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count() or 1
    quota = cgroups.cpu_quota()
    return cores if quota is None else min(cores, math.ceil(quota))


def trim() -> None:
    """Return the heap's free pages to the system: compiling kernels leaves tens of MiB behind (mostly llvmpipe's
    LLVM).

    Does nothing unless the C library is glibc.
    """
    try:
        give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except TypeError:  # on Windows, CDLL needs a name
        return
    if give_back is not None:
        give_back(0)
