"""Memory limits of control groups, read from folders laid out as the kernel's."""

import psutil
import pytest

from vkbackend.device import cgroups, host_memory

GIB = 1 << 30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """groups(own, {folder: {file: contents}}): what the process finds. own: the contents of /proc/self/cgroup."""
    monkeypatch.setattr(cgroups, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")

    def write(own, folders):
        (tmp_path / "own").write_text(own)
        for folder, files in folders.items():
            (tmp_path / "cgroup" / folder).mkdir(parents=True, exist_ok=True)
            for name, contents in files.items():
                (tmp_path / "cgroup" / folder / name).write_text(f"{contents}\n")

    return write


def test_the_smallest_limit_from_the_own_group_up_to_the_root_holds(groups):
    """cgroup v2. What the group's files take in the page cache can be had back; shared memory cannot."""
    stat = "anon 1000\nfile 700\nshmem 200\ninactive_file 300\nactive_file 200"
    groups(
        "0::/outer/inner\n",
        {
            "outer": {"memory.max": 5 * GIB, "memory.current": 4 * GIB, "memory.stat": stat},
            "outer/inner": {
                "memory.max": 4 * GIB,
                "memory.current": GIB,
                "memory.stat": stat,
                "memory.swap.max": GIB,
                "memory.swap.current": 100,
            },
        },
    )
    assert cgroups.memory_limit() == 4 * GIB
    assert cgroups.available_memory() == GIB + 500
    assert cgroups.available_swap() == GIB - 100


def test_version_1_counts_swap_together_with_memory(groups):
    groups(
        "9:cpu:/x\n4:memory:/x\n0::/\n",
        {
            "memory/x": {
                "memory.limit_in_bytes": 2 * GIB,
                "memory.usage_in_bytes": 2 * GIB - 1000,
                "memory.memsw.limit_in_bytes": 3 * GIB,
                "memory.memsw.usage_in_bytes": 2 * GIB,
                "memory.stat": "inactive_file 5\ntotal_inactive_file 50\ntotal_active_file 7",
            },
            "memory": {"memory.limit_in_bytes": 9223372036854771712, "memory.usage_in_bytes": 5 * GIB},
        },
    )
    assert cgroups.memory_limit() == 2 * GIB
    assert cgroups.available_memory() == 1057
    assert cgroups.available_swap() == GIB - 1000


@pytest.mark.parametrize(
    "own, folders",
    [
        ("0::/\n", {".": {"cgroup.procs": 1}}),
        ("0::/a\n", {"a": {"memory.max": "max", "memory.current": 5}}),
        ("4:memory:/\n", {"memory": {"memory.limit_in_bytes": 9223372036854771712, "memory.usage_in_bytes": 5}}),
        ("", {}),
    ],
    ids=["no memory controller", "max", "version 1", "no groups"],
)
def test_groups_without_a_limit_limit_nothing(groups, own, folders):
    groups(own, folders)
    assert cgroups.memory_limit() is cgroups.available_memory() is cgroups.available_swap() is None
    assert host_memory.available_host_memory() > 0 and host_memory.free_swap() >= 0


def test_a_container_that_sees_only_its_root_finds_its_limit(groups):
    """/proc/self/cgroup may name a path of the host."""
    groups("4:memory:/docker/1234\n", {"memory": {"memory.limit_in_bytes": GIB, "memory.usage_in_bytes": GIB // 2}})
    assert cgroups.available_memory() == GIB // 2


def test_the_host_has_no_more_memory_than_the_group(groups):
    groups("0::/\n", {".": {"memory.max": 1 << 20, "memory.current": 1 << 19, "memory.swap.max": 0}})
    (cgroups.ROOT / "memory.swap.current").write_text("0")
    assert host_memory.available_host_memory() == 1 << 19
    assert host_memory.total_host_memory() == 1 << 20
    assert host_memory.free_swap() == 0


@pytest.mark.parametrize(
    "own, folders, cores",
    [
        ("0::/a/b\n", {"a": {"cpu.max": "250000 100000"}, "a/b": {"cpu.max": "max 100000"}}, 2.5),
        ("3:cpu,cpuacct:/a\n", {"cpu/a": {"cpu.cfs_quota_us": 50000, "cpu.cfs_period_us": 100000}}, 0.5),
        ("3:cpu,cpuacct:/\n", {"cpu": {"cpu.cfs_quota_us": -1, "cpu.cfs_period_us": 100000}}, None),
        ("0::/\n", {".": {"cgroup.procs": 1}}, None),
    ],
    ids=["version 2", "version 1", "version 1 without a quota", "no quota"],
)
def test_a_quota_of_cpu_time_counts_as_cores(groups, monkeypatch, own, folders, cores):
    """Rounded up, and never more than the cores that the process may run on."""
    groups(own, folders)
    assert cgroups.cpu_quota() == cores
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda process: list(range(16)))
    assert host_memory.usable_cores() == {2.5: 3, 0.5: 1, None: 16}[cores]
