"""Pseudo-terminals for commands under test. A container without /dev/pts has none: its tests are skipped by name."""

import os
import pty

from vulkan_drivers import missing


def opened() -> tuple[int, int]:
    """File descriptors of a new pseudo-terminal: (the test's side, the command's side)."""
    try:
        return pty.openpty()
    except OSError as error:
        missing(f"this system has no pseudo-terminals ({error}); mount devpts at /dev/pts")
        raise  # not reached: `missing` raises


def fork() -> tuple[int, int]:
    """`pty.fork`: (0, -1) in the child, whose terminal is the new one; (its pid, the test's side) in the parent."""
    for descriptor in opened():  # pty.fork tells no reason
        os.close(descriptor)
    return pty.fork()
