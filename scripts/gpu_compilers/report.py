#!/usr/bin/env python3
"""Print what sweep.py found, one line a kernel, and a summary.

python3 scripts/gpu_compilers/report.py RESULT.json... [--only TEXT]
"""

import argparse
import json
from pathlib import Path

AMD = {
    "VGPRs": "VGPRs",
    "Spilled VGPRs": "spilled",
    "LDS size": "LDS",
    "Code size": "code",
    "Subgroups per SIMD": "waves",
}
INTEL = {"Instruction Count": "ins", "SEND Count": "send", "Loop Count": "loops", "Cycle Count": "cycles"}
INTEL |= {"Spill Count": "spills", "Fill Count": "fills"}


def is_failed(result: dict) -> bool:
    return "crash" in result or bool(result.get("result"))


def spills(result: dict) -> int:
    """Registers that the compiler spilled, over all SIMD widths of the kernel."""
    names = ("Spilled VGPRs", "Spilled SGPRs", "Spill Count")
    return sum(each.get(name, 0) for each in result.get("executables", []) for name in names)


def described(result: dict) -> str:
    if is_failed(result):
        return f"FAILED {result.get('crash', result.get('result'))}"
    columns = AMD | INTEL
    parts = []
    for each in result["executables"]:
        figures = [f"{columns[name]} {each[name]}" for name in columns if name in each]
        parts.append(f"{each['subgroup']} lanes: {', '.join(figures)}")
    return " | ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--only", default="", help="kernels whose name holds this")
    given = parser.parse_args()
    for path in given.results:
        found = json.loads(path.read_text())
        results = {name: each for name, each in found["results"].items() if given.only in name}
        print(f"{path}: {found['device']['name']}, {found['device']['driver']}, target {found['target']}")
        for name, result in results.items():
            print(f"  {name}: {described(result)}")
        failed = sum(map(is_failed, results.values()))
        spilled = sum(spills(each) > 0 for each in results.values())
        seconds = sum(each.get("seconds", 0) for each in results.values())
        print(f"  {len(results)} kernels, {failed} failed, {spilled} with spills, {seconds:.1f} s")


if __name__ == "__main__":
    main()
