"""How late the event loop of a server is, told by the server itself.

    python tests/support/measure_loop_lag.py PORT MODELS_FOLDER FIGURES    # serves; FIGURES is a file that it makes

A timer of the loop is due every LOOK_SECONDS. The time that it is late is the loop's lag, less what neighbours of the
server took: the time that the loop's thread was ready to run and had no processor (/proc/self/task/*/schedstat), and
what is left of the wall's time where the server's threads together used less of a processor. What remains is work on
the loop, or in a thread that kept the interpreter's lock.
"""

import asyncio
import mmap
import os
import struct
import sys
import threading
import time
from pathlib import Path

LOOK_SECONDS = 0.005
FIGURES = struct.Struct("dd")  # seconds: the longest lag since the file was last zeroed, and the longest by the clock


def own_lag(late: float, without_processor: float, used_of_processor: float) -> float:
    """Seconds of a delay that are the server's own."""
    return max(min(late - without_processor, used_of_processor), 0.0)


class Lag:
    """The reader's side: `reset`, then `longest`."""

    def __init__(self, path: Path):
        path.write_bytes(bytes(FIGURES.size))
        with open(path, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), FIGURES.size)

    def reset(self) -> None:
        self._memory[:] = bytes(FIGURES.size)

    def longest(self) -> tuple[float, float]:
        """(the server's own, by the clock), in seconds."""
        return FIGURES.unpack(self._memory[:])


async def watch(path: str) -> None:
    """Write how late the running loop is, for ever."""
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), FIGURES.size)
    schedstat = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)

    def waited_for_processor() -> float:
        return int(os.pread(schedstat, 100, 0).split()[1]) / 1e9

    while True:
        waited, used, due = waited_for_processor(), time.process_time(), time.monotonic() + LOOK_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        late = time.monotonic() - due
        own = own_lag(late, waited_for_processor() - waited, time.process_time() - used)
        longest, longest_by_clock = FIGURES.unpack(memory[:])
        if own > longest or late > longest_by_clock:
            FIGURES.pack_into(memory, 0, max(own, longest), max(late, longest_by_clock))


def main(port: str, models_folder: str, path: str) -> None:
    import live_server

    live_server.main(port, models_folder, beside=lambda: watch(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
