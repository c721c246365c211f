"""The tables of docs/performance.md about models of real size, from what real_sizes.py keeps."""

import json
from collections.abc import Iterator
from pathlib import Path

BEGIN, END = "<!-- written by scripts/real_sizes.sh -->\n", "<!-- end -->"
NAMES = {
    "llama1b": "1B Q4_K_M",
    "llama1b-q8": "1B Q8_0",
    "llama1b-f16": "1B F16",
    "gemma4b": "gemma3 4B Q4_K_M",
    "llama7b": "7B Q4_0",
    "llama8b": "8B Q4_K_M",
    "llama8b-q8": "8B Q8_0",
    "llama14b": "14B Q4_K_M",
}
PROGRAMS = {"vulkan": "Vulkan", "cpu": "CPU path"}
OWN = {"vulkan": ("vulkan",), "cpu": ("cpu", "cpu 1", "cpu 2")}
PEERS = {"vulkan": ("llama.cpp vulkan",), "cpu": ("llama.cpp 1", "llama.cpp 2")}
MEBIBYTE, GIGABYTE = 1 << 20, 1e9
MISSING = "-"
HEAD_LINES = 2

Figures = dict[str, dict]  # part -> what it measured


def write(folder: Path, document: Path | None = None) -> None:
    """Print the tables, or put them between the marks in `document`."""
    kept: dict[str, Figures] = {}
    for path in folder.glob("*.*.json"):
        model, part, _ = path.name.split(".")
        kept.setdefault(model, {})[part] = json.loads(path.read_text())
    models = {name: kept[name] for name in NAMES if name in kept}
    text = "\n\n".join("\n".join(lines) for lines in tables(models))
    if document is None:
        print(text)
        return
    old = document.read_text()
    before, rest = old.split(BEGIN)
    document.write_text(f"{before}{BEGIN}\n{text}\n\n{END}{rest.partition(END)[2]}")


def tables(models: dict[str, Figures]) -> Iterator[list[str]]:
    """The lines of each table that has rows."""
    for lines in (_memory(models), _host(models), _rates(models), _agreement(models)):
        if len(lines) > HEAD_LINES:
            yield lines


def _agreement(models: dict[str, Figures]) -> list[str]:
    found = {name: parts["agreement"] for name, parts in models.items() if "agreement" in parts}
    rows = [[NAMES[name], *(f"{each[path]:.4f}" for path in PROGRAMS)] for name, each in found.items()]
    title = "mean difference of log-probabilities to llama.cpp with float32 weights, 256 tokens"
    return _table(title, ["Vulkan", "CPU path, `VKBACKEND_CPU=exact`"], rows)


def _table(title: str, columns: list[str], rows: list[list[str]]) -> list[str]:
    head = [f"| {title} | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    return head + [f"| {' | '.join(row)} |" for row in rows]


def _memory(models: dict[str, Figures]) -> list[str]:
    """Memory in MiB and CPU seconds of loading."""
    rows = []
    for name, parts in models.items():
        found = parts.get("memory", {})
        for path, label in PROGRAMS.items():
            if path not in found:
                continue
            each, file_bytes = found[path], found["file_bytes"]
            planned = each["size_vram"] if path == "vulkan" else each["size"]
            sizes = [planned, *(each[f"{when}_bytes"] for when in ("after", "peak", "answered"))]
            seconds = each["load_seconds"]
            rows.append(
                [f"{NAMES[name]}, {label}", f"{file_bytes / MEBIBYTE:.0f}"]
                + [f"{size / MEBIBYTE:.0f}" for size in sizes]
                + [f"{seconds:.1f} ({seconds / file_bytes * GIGABYTE:.2f} per GB)"]
            )
    columns = ["file", "weights and cache", "after loading", "peak of loading", "after an answer", "CPU s to load"]
    return _table("MiB of private memory", columns, rows)


def _host(models: dict[str, Figures]) -> list[str]:
    """The host's share by context: milliseconds of a step, microseconds of a token of a prompt."""
    contexts = sorted({context for parts in models.values() for context in parts.get("host", {})}, key=int)
    rows = []
    for name, parts in models.items():
        if found := parts.get("host"):
            cells = [
                f"{found[each]['turn_ms']:.2f} / {1e3 * found[each]['prompt_token_ms']:.1f}"
                if each in found
                else MISSING
                for each in contexts
            ]
            rows.append([NAMES[name], *cells])
    columns = [f"{int(context):,} tokens" for context in contexts]
    return _table("host: ms of a step / µs of a prompt's token", columns, rows)


def _rates(models: dict[str, Figures]) -> list[str]:
    """Tokens per second, with the ratio to llama.cpp: by the clock, and by CPU seconds."""
    rows = []
    measured = [
        (f"{NAMES[name]}, {label}", path, parts[f"{path}_speed"])
        for name, parts in models.items()
        for path, label in PROGRAMS.items()
        if f"{path}_speed" in parts
    ]
    known = {size for _, path, found in measured for program in OWN[path] for size in found.get(program, {})}
    sizes = sorted(known, key=lambda size: (size == "decode", int(size.split()[-1]) if " " in size else 0))
    for label, path, found in measured:
        rows.append([label, *(_rate(found, path, size) for size in sizes)])
    return _table("tok/s (ratio to llama.cpp: by the clock / by CPU seconds)", sizes, rows)


def _rate(found: dict, path: str, size: str) -> str:
    """The best of our programs, and its ratio to the best of theirs."""
    own, theirs = (
        [found[name][size] for name in names if size in found.get(name, {})] for names in (OWN[path], PEERS[path])
    )
    if not own:
        return MISSING
    text = f"{max(each['rate'] for each in own):.3g}"
    if not theirs:
        return text
    ratios = [max(each[key] for each in own) / max(each[key] for each in theirs) for key in ("rate", "cpu_rate")]
    return f"{text} ({ratios[0]:.2g} / {ratios[1]:.2g})"
