"""The command line with less memory than there is; a program.

    DEVICE_GIB=4 HOST_FREE_GIB=2 python scarce_memory.py show MODEL ...

DEVICE_GIB: each device's memory, total and free (at most what the host has free). HOST_FREE_GIB: what the host has,
all of it free, without swap. Servers that `live_server` starts read the same variables.
"""

import os
import sys

from vkbackend.device import discover, host_memory


def limit_memory() -> None:
    if host := os.environ.get("HOST_FREE_GIB"):
        free = int(float(host) * 2**30)
        host_memory.available_host_memory = discover.available_host_memory = lambda: free
        host_memory.total_host_memory = lambda: free
        host_memory.free_swap = lambda: 0
    if device := os.environ.get("DEVICE_GIB"):
        total = int(float(device) * 2**30)
        discover.Memory.of = lambda *arguments: discover.Memory(
            total, min(total, discover.available_host_memory()), problem=""
        )


if __name__ == "__main__":
    from vkbackend.__main__ import main

    limit_memory()
    sys.argv[0] = "vkbackend"
    sys.exit(main())
