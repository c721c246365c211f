"""The process's own memory: what it holds, and giving back what it does not use."""

import ctypes


def resident_bytes() -> int:
    """Of this process, the pages of files and drivers that it maps included; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * _page_bytes()
    except OSError:
        return 0


def _page_bytes() -> int:
    import resource
    return resource.getpagesize()


def trim() -> None:
    """Give the heap's free pages back to the system: compiling kernels leaves tens of MiB of them behind (llvmpipe's LLVM above all).

    Nothing happens where the C library is not glibc.
    """
    if (give_back := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        give_back(0)
