"""The number of threads of the CPU path."""

import os

import pytest
from vulkan_drivers import run_on

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


@pytest.mark.parametrize("wanted, expected", [(0, 2), (-1, 2), (1, 1), (3, 3), (4, 4), (5, 4), (10_000, 4)])
def test_a_request_gets_at_most_two_threads_for_each_core(machine, monkeypatch, wanted, expected):
    machine(["0", "1"], [0, 1])
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    assert threads.usable_threads(wanted) == expected


ON_FEW_THREADS = """
import resource, sys
from pathlib import Path
from tiny_gguf import write_tiny_gguf
from vkbackend.cpu import threads
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import ModelRunner
from vkbackend.loading import load
model = load(write_tiny_gguf(sys.argv[1], "llama", "q4_0"))
threads.usable_cores = lambda: 64
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (200 << 20),) * 2)  # for some 8 MiB stacks
runner = ModelRunner(model, context_length=64, num_threads=100)
runner.step([SequenceWork(runner.open_sequence(), [5] * 8, 1)])
print(runner.executor._pool.num_threads)
"""


def test_a_limit_of_threads_lowers_their_number(on_ggml, tmp_path):
    """libgomp would end the process."""
    found = run_on(None, ON_FEW_THREADS, tmp_path / "tiny.gguf", environment={"VKBACKEND_CPU": "ggml"}, seconds=100)
    assert 1 <= found < 60
