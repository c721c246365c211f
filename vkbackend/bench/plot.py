"""Plots measurements: bars of tokens per second, with the slowest and the fastest round.

In: a `Result` or a `Comparison`. Out: a file of the format that its suffix names (.png, .svg, .pdf). Needs matplotlib,
the extra "plot".
"""

from pathlib import Path
from types import ModuleType

from ..errors import VkbackendError
from .compare import Comparison
from .model import Result

BAR = 0.8  # share of a group's width that its bars fill

Bar = tuple[float, float, float]  # median, slowest, fastest round
Group = tuple[str, list[str], dict[str, list[Bar | None]]]  # title, labels, and for each name a bar per label


def check(path: str | Path) -> ModuleType:
    """Import matplotlib's pyplot, set up to draw into files.

    Raises VkbackendError if it is not installed or does not support the file's format.
    """
    try:
        import matplotlib
    except ImportError:
        raise VkbackendError("--plot needs matplotlib, which is not installed: pip install 'matplotlib>=3.6'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    kind = Path(path).suffix.removeprefix(".").lower()
    if kind and kind not in pyplot.figure().canvas.get_supported_filetypes():
        raise VkbackendError(f"{path} cannot be written: .{kind} is not a picture format; use .png, .svg or .pdf")
    pyplot.close("all")
    return pyplot


def plot(path: str | Path, found: Result | Comparison) -> None:
    """Write the picture. Raises VkbackendError as `check` does, or if the file cannot be written."""
    pyplot = check(path)
    groups = comparison_groups(found) if isinstance(found, Comparison) else result_groups(found)
    figure, axes = pyplot.subplots(1, len(groups), figsize=(1 + 4.5 * len(groups), 4.5), squeeze=False)
    for axis, (title, labels, bars) in zip(axes[0], groups.values()):
        width = BAR / len(bars)
        for at, (name, values) in enumerate(bars.items()):
            places = [index + (at - (len(bars) - 1) / 2) * width for index, value in enumerate(values) if value]
            there = [value for value in values if value]
            spread = [[median - least for median, least, _ in there], [most - median for median, _, most in there]]
            axis.bar(places, [median for median, _, _ in there], width * 0.95, yerr=spread, capsize=3, label=name)
        axis.set(title=title, ylabel="tokens per second", xticks=range(len(labels)), xticklabels=labels)
        if len(bars) > 1:
            axis.legend()
    figure.tight_layout()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise VkbackendError(f"{path} cannot be written: {error}") from None
    finally:
        pyplot.close(figure)


def result_groups(found: Result) -> dict[str, Group]:
    """The bars of one model's measurement, by phase."""
    groups: dict[str, Group] = {}
    for rate in found.rates:
        title, labels, bars = groups.setdefault(
            rate.phase, (f"{rate.phase}, {found.device}", [], {found.architecture: []})
        )
        labels.append(
            f"{rate.tokens}" if rate.phase == "prefill" else f"{rate.batch} x {rate.tokens}\nafter {rate.context}"
        )
        bars[found.architecture].append((rate.rate, rate.slowest, rate.fastest))
    return groups


def comparison_groups(found: Comparison) -> dict[str, Group]:
    """The bars of a comparison, by phase, with a name for each server."""
    groups: dict[str, Group] = {}
    servers = list(dict.fromkeys(line.server for line in found.lines))
    for phase in dict.fromkeys(line.phase for line in found.lines):
        lines = [line for line in found.lines if line.phase == phase]
        sizes = list(dict.fromkeys((line.size, line.clients) for line in lines))
        rates = {
            (line.server, line.size, line.clients): (line.rate.median, line.rate.least, line.rate.most)
            for line in lines
        }
        title = "until the first token, by words of the prompt" if phase == "prefill" else "decode, by tokens"
        labels = [f"{size}" if clients == 1 else f"{clients} clients,\n{size} each" for size, clients in sizes]
        groups[phase] = (title, labels, {server: [rates.get((server, *size)) for size in sizes] for server in servers})
    return groups
