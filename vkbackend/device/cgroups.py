"""Limits of the control groups that this process is in (containers, systemd units), on Linux.

In: /proc/self/cgroup and the file system of cgroup v1 or v2. Out: bytes, or a quota of CPU time as a number of
processors; None where nothing is limited. A group's limit also holds for the groups below it, so every group from the
process's own up to the root counts.
"""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
UNLIMITED = 1 << 62  # cgroup v1 reports about this much for a group without a limit
# Files of a group, by version: limit, usage, limit of swap, usage of swap.
V2 = ("memory.max", "memory.current", "memory.swap.max", "memory.swap.current")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes")
V1_QUOTA = ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # v2: both in cpu.max
RECLAIMABLE = ("inactive_file", "active_file")  # the page cache of files, which the kernel drops when it needs room


def memory_limit() -> int | None:
    """Bytes that the process's groups may use in total; None without a limit."""
    return min((limit for folder, names in _groups() if (limit := _limit(folder / names[0])) is not None), default=None)


def available_memory() -> int | None:
    """Bytes that the process's groups may still allocate without swapping; None without a limit."""
    found = []
    for folder, names in _groups():
        limit = _limit(folder / names[0])
        used = _number(folder / names[1])
        if limit is not None and used is not None:
            found.append(max(0, limit - used + _reclaimable(folder)))
    return min(found, default=None)


def available_swap() -> int | None:
    """Bytes that the process's groups may still swap out; None without a limit."""
    found = []
    for folder, names in _groups():
        limit = _limit(folder / names[2])
        used = _number(folder / names[3])
        if limit is None or used is None:
            continue
        if names is V1:  # v1 limits memory and swap together
            memory_limit, memory_used = _limit(folder / names[0]), _number(folder / names[1])
            limit -= memory_limit or limit
            used -= memory_used or 0
        found.append(max(0, limit - used))
    return min(found, default=None)


def cpu_quota() -> float | None:
    """Processors whose time the process's groups may use; None without a quota."""
    found = []
    for folder, names in _groups("cpu"):
        if names is V1:
            quota, period = (_number(folder / name) for name in V1_QUOTA)
        else:
            quota, period = _max_and_period(folder / "cpu.max")
        if quota and period:
            found.append(quota / period)
    return min(found, default=None)


def _max_and_period(file: Path) -> tuple[int | None, int | None]:
    """The two numbers of cpu.max, in microseconds; None for "max"."""
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return None, None
    return int(quota) if quota.isdecimal() else None, int(period) if period.isdecimal() else None


def _groups(controller: str = "memory") -> Iterator[tuple[Path, tuple[str, str, str, str]]]:
    """The folders of the process's groups of a controller, its own first, each with the names of its memory files."""
    try:
        lines = OWN.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            yield from _upwards(ROOT / controller, path, V1)
        elif not controllers:
            yield from _upwards(ROOT, path, V2)


def _upwards(
    root: Path, path: str, names: tuple[str, str, str, str]
) -> Iterator[tuple[Path, tuple[str, str, str, str]]]:
    """Folders that exist, from `path` up to `root`. A container may see only its root under a path of the host's."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        folder = root.joinpath(*parts[:count])
        if folder.is_dir():
            yield folder, names


def _limit(file: Path) -> int | None:
    """The number in `file`; None if there is none, or if it means no limit."""
    found = _number(file)
    return None if found is None or found >= UNLIMITED else found


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # "max" means no limit


def _reclaimable(folder: Path) -> int:
    """Bytes of the group, and of those below it, that the kernel can drop."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    found = {name: int(count) for name, _, count in (line.partition(" ") for line in lines) if count.isdecimal()}
    return sum(found.get(f"total_{name}", found.get(name, 0)) for name in RECLAIMABLE)
