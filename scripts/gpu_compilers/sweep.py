#!/usr/bin/env python3
"""Compile recorded kernels (record.py) with a real GPU driver's compiler; no GPU needed.

    python3 scripts/gpu_compilers/sweep.py WORK TARGET DRIVER PLATFORM [--asm FOLDER] [--only TEXT] [--skip TEXT]

DRIVER: radv22, anv22 (this system's Mesa), radv25, anv25 (a newer one unpacked in WORK/trixie). PLATFORM: navi21,
vangogh, raven ... for RADV (RADV_FORCE_FAMILY), tgl, dg2, skl ... for ANV (INTEL_STUB_GPU_PLATFORM, Mesa's drm-shim).
Prints JSON for report.py. A kernel that crashes or hangs the compiler gets "crash"; a new process takes the rest.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ICD = {"radv22": "radeon_icd.x86_64.json", "anv22": "intel_icd.x86_64.json"}
ICD_UNPACKED = {"radv25": "radeon_icd.json", "anv25": "intel_icd.json"}
SHIM = "shim/libintel_noop_drm_shim.so"


def command(work: Path, driver: str, platform: str) -> tuple[list[str], dict[str, str]]:
    """-> arguments that start vkstats on that driver, and its environment."""
    environment = dict(os.environ, XDG_RUNTIME_DIR=str(work), MESA_SHADER_CACHE_DISABLE="true")
    environment["RADV_FORCE_FAMILY" if driver.startswith("radv") else "INTEL_STUB_GPU_PLATFORM"] = platform
    start: list[str] = []
    if driver in ICD:
        manifest = Path("/usr/share/vulkan/icd.d", ICD[driver])
        if driver == "anv22":
            start += ["env", f"LD_PRELOAD={work / SHIM}"]
    else:
        usr = work / "trixie/usr"
        libraries = usr / "lib/x86_64-linux-gnu"
        manifest = usr / "share/vulkan/icd.d" / ICD_UNPACKED[driver]
        start += [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
        if driver == "anv25":
            start += ["--preload", str(work / SHIM)]
    environment["VK_DRIVER_FILES"] = environment["VK_ICD_FILENAMES"] = str(manifest)
    return [*start, str(work / "vkstats")], environment


def label(row: dict) -> str:
    constants = " ".join(f"{number}={value}" for number, value in row["constants"])
    return f"{row['shader']} [{constants}] sg{row['subgroup']}"


def job(work: Path, row: dict, asm: Path | None) -> str:
    """The line that vkstats reads for one kernel."""
    constants = ",".join(f"{number}={value}" for number, value in row["constants"]) or "-"
    spirv = str(work / "spv" / f"{row['shader']}.spv")
    listing = str(asm / (re.sub(r"[^a-zA-Z0-9_.=-]+", "_", label(row)) + ".txt")) if asm else "-"
    push_bytes = str(4 * row["push"])
    fields = [label(row), spirv, "main", str(row["subgroup"]), push_bytes, row["bindings"], constants, listing]
    return "\t".join(fields)


def sweep(
    work: Path, rows: list[dict], driver: str, platform: str, asm: Path | None = None, seconds: int = 120
) -> tuple[dict, dict[str, dict]]:
    """-> (the device, label -> result). seconds: CPU time for one kernel, before its compiler counts as hung."""
    start, environment = command(work, driver, platform)
    asked = subprocess.run([*start, "--device"], env=environment, capture_output=True, text=True, check=True)
    results: dict[str, dict] = {}
    left = [job(work, row, asm) for row in rows]
    while left:
        lines = "\n".join(left) + "\n"
        limit = f"--cpu={seconds + 2 * len(left)}"
        done = subprocess.run(["prlimit", limit, *start], env=environment, input=lines, capture_output=True, text=True)
        printed = done.stdout
        error = "timeout" if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL) else done.stderr[-300:]
        complete = [line for line in printed.splitlines() if line.endswith("}")]
        for line in complete:
            result = json.loads(line)
            results[result["label"]] = result
        if len(complete) < len(left):
            failed = left[len(complete)].split("\t")[0]
            results[failed] = {"label": failed, "crash": error}
        left = left[len(complete) + 1 :]
    return json.loads(asked.stdout), results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("target")
    parser.add_argument("driver", choices=[*ICD, *ICD_UNPACKED])
    parser.add_argument("platform")
    parser.add_argument("--asm", type=Path, help="folder for the disassembly of each kernel")
    parser.add_argument("--only", default="", help="kernels whose name holds this")
    parser.add_argument("--skip", default="\0", help="leave out kernels whose name holds this")
    given = parser.parse_args()
    if given.asm:
        given.asm.mkdir(parents=True, exist_ok=True)
    work = given.work.resolve()
    recorded = json.loads((work / "kernels.json").read_text())[given.target]
    rows = [row for row in recorded if given.only in row["shader"] and given.skip not in row["shader"]]
    device, results = sweep(work, rows, given.driver, given.platform, given.asm)
    json.dump({"device": device, "target": given.target, "results": results}, sys.stdout, indent=0)


if __name__ == "__main__":
    main()
