"""The number of threads of the CPU path."""

import os

import pytest

from vkbackend.cpu import threads
from vkbackend.device import cgroups


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """machine(cores of each CPU, allowed CPUs, quota)"""

    def make(cores, allowed, quota=None):
        monkeypatch.setattr(threads, "CORES", tmp_path)
        for cpu, siblings in enumerate(cores):
            folder = tmp_path / f"cpu{cpu}" / "topology"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "thread_siblings_list").write_text(f"{siblings}\n")
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(allowed))
        monkeypatch.setattr(cgroups, "cpu_quota", lambda: quota)

    return make


@pytest.mark.parametrize(
    "cores, allowed, quota, expected",
    [
        (["0", "1"], [0, 1], None, 2),
        (["0,2", "1,3", "0,2", "1,3"], [0, 1, 2, 3], None, 2),  # hardware threads share a core
        (["0,2", "1,3", "0,2", "1,3"], [1, 3], None, 1),  # affinity
        (["0", "1", "2", "3"], [0, 1, 2, 3], 2.5, 2),  # a quota
        (["0", "1"], [0, 1], 0.5, 1),
        ([], [0, 1, 2], None, 3),  # a system that does not say
    ],
)
def test_physical_cores_within_affinity_and_quota(machine, cores, allowed, quota, expected):
    machine(cores, allowed, quota)
    assert threads.default_threads() == expected
