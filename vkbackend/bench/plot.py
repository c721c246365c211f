"""What was measured as a picture: bars of tokens per second, with the slowest and the fastest round.

In: a `Result` or a `Comparison`. Out: a file of the kind that its name says (.png, .svg, .pdf). Needs matplotlib,
the extra "plot".
"""

from pathlib import Path

from ..errors import VkbackendError
from .compare import Comparison
from .model import Result

BAR = 0.8  # of the room that a group of bars has


def check(path):
    """matplotlib's pyplot, which draws into files. Raises VkbackendError where it is missing, or writes no files of
    this name's kind.
    """
    try:
        import matplotlib
    except ImportError:
        raise VkbackendError("--plot needs matplotlib, which is not installed: pip install 'matplotlib>=3.6'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    kind = Path(path).suffix.removeprefix(".").lower()
    if kind and kind not in pyplot.figure().canvas.get_supported_filetypes():
        raise VkbackendError(f"{path} cannot be written: .{kind} is no kind of picture; .png, .svg and .pdf are")
    pyplot.close("all")
    return pyplot


def plot(path, found: Result | Comparison) -> None:
    """Raises VkbackendError as `check` does, or where the file cannot be written."""
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


def result_groups(found: Result) -> dict:
    """Phase -> (title, labels, {name: [(median, least, most) or None, one for each label]})."""
    groups = {}
    for rate in found.rates:
        title, labels, bars = groups.setdefault(
            rate.phase, (f"{rate.phase}, {found.device}", [], {found.architecture: []})
        )
        labels.append(
            f"{rate.tokens}" if rate.phase == "prefill" else f"{rate.batch} x {rate.tokens}\nafter {rate.context}"
        )
        bars[found.architecture].append((rate.rate, rate.slowest, rate.fastest))
    return groups


def comparison_groups(found: Comparison) -> dict:
    """As `result_groups`, with a name for each server."""
    groups = {}
    servers = list(dict.fromkeys(line.server for line in found.lines))
    for phase in dict.fromkeys(line.phase for line in found.lines):
        lines = [line for line in found.lines if line.phase == phase]
        sizes = list(dict.fromkeys((line.size, line.clients) for line in lines))
        rates = {
            (line.server, line.size, line.clients): (line.rate.median, line.rate.least, line.rate.most)
            for line in lines
        }
        title = "until the first token, prompts of so many words" if phase == "prefill" else "decode, so many tokens"
        labels = [f"{size}" if clients == 1 else f"{clients} clients,\n{size} each" for size, clients in sizes]
        groups[phase] = (title, labels, {server: [rates.get((server, *size)) for size in sizes] for server in servers})
    return groups
