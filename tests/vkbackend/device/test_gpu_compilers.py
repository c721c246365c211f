"""Kernels on the compiler of a real GPU's driver: RADV's, for a device without hardware (scripts/gpu_compilers)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from vulkan_drivers import missing

TOOLS = ROOT / "scripts/gpu_compilers"


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Recorded kernels and vkstats."""
    if not Path("/usr/share/vulkan/icd.d/radeon_icd.x86_64.json").exists():
        missing("RADV is not installed (Debian: apt-get install mesa-vulkan-drivers)")
    folder = tmp_path_factory.mktemp("compilers")
    for command in (
        ["bash", TOOLS / "setup.sh", folder, "--vkstats-only"],
        [sys.executable, TOOLS / "record.py", folder],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return folder


def test_kernels_of_decode_compile_for_amd_without_spills(work):
    kernels = json.loads((work / "kernels.json").read_text())
    roles = ("llama64 q4_k f16 decode1", "gemma256 q4_k f16 decode1")
    rows = [row for row in kernels["amd64"] if not set(roles).isdisjoint(row["roles"])]
    kernels["amd64"] = rows
    (work / "kernels.json").write_text(json.dumps(kernels))
    command = [sys.executable, TOOLS / "sweep.py", work, "amd64", "radv22", "navi21"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout)
    assert {"decode_attention_subgroup", "embed_q4_k", "top_k_strips_base"} <= {row["shader"] for row in rows}
    assert "NAVI21" in found["device"]["name"] and len(found["results"]) == len(rows) > 10
    for name, result in found["results"].items():
        assert result.get("result") == 0, (name, result)
        assert result["executables"][0]["Spilled VGPRs"] == 0, name
