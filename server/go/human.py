"""Human-readable sizes, counts and times (`4.7 GB`, `134.52M`, `3 days ago`), and shortened texts.

In: bytes, counts, nanoseconds. Out: the text that Ollama's clients and lists show, divided as Go's float64 does.
"""

from . import durations

_BYTES = [(10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB")]
_BINARY_BYTES = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
HOUR = 3600 * durations.SECOND
MAX_SHOWN = 1024  # characters; a model name has at most 593
SHOWN_START = 200  # characters kept of a longer text


def shortened(text: str) -> str:
    """A text for error messages: if it is very long, its start and an ellipsis, which no valid name contains."""
    return text if len(text) <= MAX_SHOWN else text[:SHOWN_START] + "\u2026"


def human_bytes(count: int) -> str:
    """Size in decimal units, with one decimal if below ten units and not whole: `1.5 KB`, `12 MB`."""
    for scale, unit in _BYTES:
        if count >= scale:
            value = float(count) / scale
            return f"{value:.1f} {unit}" if value < 10 and value % 1 else f"{int(value)} {unit}"
    return f"{count} B"


def human_bytes_binary(count: int) -> str:
    """Size in binary units, always with one decimal: `1.5 GiB`."""
    for scale, unit in _BINARY_BYTES:
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def human_number(count: int) -> str:
    """Number of parameters: `134.52M`, `6.7B`, `8K`."""
    for scale, unit, decimals in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= scale:
            value = float(count) / scale
            return f"{value:.{decimals if value % 1 else 0}f}{unit}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def human_duration(nanoseconds: int) -> str:
    """Approximate duration in words: `About a minute`, `3 weeks`."""
    seconds = int(nanoseconds / durations.SECOND)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    minutes = seconds // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    exact_hours = _hours(nanoseconds)
    hours = int(exact_hours + 0.5)  # halves go up
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    for limit_days, days, unit in ((14, 1, "days"), (60, 7, "weeks"), (730, 30, "months")):
        if hours < 24 * limit_days:
            return f"{hours // 24 // days} {unit}"
    return f"{int(exact_hours) // 24 // 365} years"


def _hours(nanoseconds: int) -> float:
    """Hours added up as in Go's Duration.Hours, where the last nanoseconds of a long duration round away."""
    hours, rest = divmod(nanoseconds, HOUR)
    return hours + rest / HOUR


def human_time(age_nanoseconds: int | None, unknown: str = "Never") -> str:
    """Age in words: `3 days ago`, `2 weeks from now`, `Forever`. A negative age is in the future; None is `unknown`."""
    if age_nanoseconds is None:
        return unknown
    if age_nanoseconds < 0 and int(_hours(-age_nanoseconds)) // 24 // 365 > 20:
        return "Forever"
    if age_nanoseconds < 0:
        return human_duration(-age_nanoseconds) + " from now"
    return human_duration(age_nanoseconds) + " ago"
