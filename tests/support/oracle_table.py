"""Write the table of docs/models.md: how far models of each architecture are from recorded answers, in each place.

python tests/support/oracle_table.py FOLDER DOCUMENT    FOLDER: shared/oracles/text
"""

import json
import sys
from pathlib import Path

from compare_oracles import cases
from vulkan_drivers import DRIVERS, run_on

BEGIN, END = "<!-- written by scripts/models_table.sh -->\n", "<!-- end -->"
COLUMNS = ("model", "architecture", "twins", "CPU path (ggml)", "lavapipe", "SwiftShader", "recording")
PLACES = [(None, {"VKBACKEND_CPU": "exact"}), (None, {"VKBACKEND_CPU": "ggml"}), *((driver, {}) for driver in DRIVERS)]


def main(folder: Path, document: Path) -> None:
    """Measure all models and put the table between the marks of the document."""
    all_cases = cases(folder)
    found = [
        run_on(
            driver,
            Path("compare_oracles.py"),
            "device" if driver else "cpu",
            *all_cases.values(),
            environment=environment,
            seconds=3600,
        )
        for driver, environment in PLACES
    ]
    rows = [row(name, case, [each[name] for each in found]) for name, case in all_cases.items()]
    head = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    before, rest = document.read_text().split(BEGIN)
    document.write_text(before + BEGIN + "\n" + "\n".join([*head, *rows]) + "\n\n" + END + rest.split(END)[1])


def row(name: str, case: Path, places: list[dict]) -> str:
    """The line of one model, or why it does not run."""
    architecture = json.loads((case / "cases.json").read_text())["architecture"]
    if "error" in places[0]:
        return f"| {name} | {architecture} | does not run | | | | |"
    cells = [
        "failed" if "error" in requests else shown(max(each["second"] or 0 for each in requests.values()))
        for requests in places
    ]
    recorded = shown(max(each["recorded"] for each in places[0].values()))
    return f"| {name} | {architecture} | {' | '.join(cells)} | {recorded} |"


def shown(difference: float) -> str:
    """Two digits."""
    return f"{difference:.1e}" if difference < 1e-3 else f"{difference:.2g}"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
