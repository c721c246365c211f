"""The process's own memory: what it holds, and giving back what it does not use."""

import ctypes


def resident_bytes() -> int:
    """Of this process, the pages of files and drivers that it maps included; 0 where the system does not say."""
    return _status("VmRSS:")


def peak_resident_bytes() -> int:
    """The most that `resident_bytes` was since the process began."""
    return _status("VmHWM:")


def _status(name: str) -> int:
    try:
        with open("/proc/self/status") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
    except OSError:
        return 0


def trim() -> None:
    """Give the heap's free pages back to the system: compiling kernels leaves tens of MiB of them behind (llvmpipe's LLVM above all).

    Nothing happens where the C library is not glibc.
    """
    if (give_back := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        give_back(0)
