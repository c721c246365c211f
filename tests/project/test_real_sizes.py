"""real_sizes.py measures what scripts/real_sizes.sh tabulates, and the tables say it."""

import json
import mmap
import os
import subprocess
import sys

import pytest
import real_sizes
import real_sizes_table
from places import ROOT
from tiny_gguf import write_tiny_gguf

MEBIBYTE = 1 << 20


def test_private_memory_is_anonymous_and_shared_memory_without_mapped_files(tmp_path):
    (tmp_path / "file").write_bytes(bytes(64 * MEBIBYTE))
    before = real_sizes.private_bytes(os.getpid())
    anonymous, shared = mmap.mmap(-1, 64 * MEBIBYTE, flags=mmap.MAP_PRIVATE), mmap.mmap(-1, 32 * MEBIBYTE)
    with (tmp_path / "file").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    anonymous.write(bytes(len(anonymous)))
    shared.write(bytes(len(shared)))
    assert not any(mapped[::4096])
    assert (real_sizes.private_bytes(os.getpid()) - before) / MEBIBYTE == pytest.approx(
        96, abs=16
    )  # the interpreter's own grows, too


def test_an_engine_in_a_process_of_its_own_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(real_sizes, "ROUNDS", 1)
    model = write_tiny_gguf(tmp_path / "tiny.gguf", context_length=2048)
    memory = real_sizes.memory(model)
    assert memory["vulkan"]["size_vram"] > 0 == memory["cpu"]["size_vram"]
    for path in ("vulkan", "cpu"):
        found = memory[path]
        assert found["peak_bytes"] >= found["after_bytes"] > 10 * MEBIBYTE and found["load_seconds"] > 0
    rates = real_sizes.speed(model, {"cpu": real_sizes.Sizes((4, 8), 2)})
    assert list(rates["cpu"]) == ["prefill 4", "prefill 8", "decode"]
    assert all(each["rate"] > 0 and each["cpu_rate"] > 0 for each in rates["cpu"].values())


def test_an_engine_that_cannot_start_is_an_error(tmp_path):
    (tmp_path / "no.gguf").write_bytes(b"x" * 100)
    with pytest.raises(real_sizes.VkbackendError, match=r"real_engine.py.*ended with status 1"):
        real_sizes.EngineProcess("cpu", tmp_path / "no.gguf")


FIGURES = {
    "memory": {
        "file_bytes": 1000 * MEBIBYTE,
        "vulkan": {
            "size": 1100 * MEBIBYTE,
            "size_vram": 1090 * MEBIBYTE,
            "after_bytes": 1200 * MEBIBYTE,
            "peak_bytes": 1300 * MEBIBYTE,
            "answered_bytes": 1250 * MEBIBYTE,
            "load_seconds": 2.1,
        },
    },
    "host": {"1024": {"turn_ms": 0.25, "prompt_token_ms": 0.003}, "128000": {"turn_ms": 0.5, "prompt_token_ms": 0.008}},
    "cpu_speed": {
        "cpu": {"prefill 128": {"rate": 60.0, "cpu_rate": 30.0}, "decode": {"rate": 12.0, "cpu_rate": 6.0}},
        "llama.cpp 1": {"decode": {"rate": 20.0, "cpu_rate": 24.0}},
        "llama.cpp 2": {"decode": {"rate": 24.0, "cpu_rate": 12.0}},
    },
}


def test_tables_say_what_was_measured(tmp_path):
    for part, figures in FIGURES.items():
        (tmp_path / f"llama1b.{part}.json").write_text(json.dumps(figures))
    document = tmp_path / "document.md"
    document.write_text(f"before\n{real_sizes_table.BEGIN}old\n{real_sizes_table.END}\nafter\n")
    for _ in range(2):  # the second time, what it wrote itself is replaced
        real_sizes_table.write(tmp_path, document)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    lines = text.splitlines()
    assert "| 1B Q4_K_M, Vulkan | 1000 | 1090 | 1200 | 1300 | 1250 | 2.1 (2.00 per GB) |" in lines
    assert "| 1B Q4_K_M | 0.25 / 3.0 | 0.50 / 8.0 |" in lines
    # The better of llama.cpp's two numbers of threads counts: 24 tokens per second, 24 per CPU second.
    assert "| 1B Q4_K_M, CPU path | 60 | 12 (0.5 / 0.25) |" in lines


def test_the_document_has_a_place_for_the_tables():
    text = (ROOT / "docs/performance.md").read_text()
    assert text.count(real_sizes_table.BEGIN) == 1 and real_sizes_table.END in text.partition(real_sizes_table.BEGIN)[2]


def test_log_probabilities_of_a_text(tmp_path):
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    command = [sys.executable, ROOT / "tests/support/session_logprobs.py", "cpu", model]
    done = subprocess.run(command, input="[5, 9, 7, 40]", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 3 and all(-30 < each < 0 for each in found)
