"""Tables of real_sizes_table.py: the better number of threads counts, and log-probabilities have a table."""

import json

import real_sizes_table

SPEED = {
    "cpu 1": {"decode": {"rate": 11.0, "cpu_rate": 6.0}},
    "cpu 2": {"decode": {"rate": 12.0, "cpu_rate": 5.0}},
    "llama.cpp 1": {"decode": {"rate": 20.0, "cpu_rate": 24.0}},
    "llama.cpp 2": {"decode": {"rate": 24.0, "cpu_rate": 12.0}},
}


def test_the_better_number_of_threads_counts(tmp_path, capsys):
    (tmp_path / "llama1b.cpu_speed.json").write_text(json.dumps(SPEED))
    (tmp_path / "llama1b.agreement.json").write_text(json.dumps({"vulkan": 0.01642, "cpu": 0.016}))
    real_sizes_table.write(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "| 1B Q4_K_M, CPU path | 12 (0.5 / 0.25) |" in lines
    assert "| 1B Q4_K_M | 0.0164 | 0.0160 |" in lines
    assert not any("MiB" in line for line in lines)  # nothing was measured of memory
