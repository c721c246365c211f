"""Shows the progress of a long task from the objects that /api/pull, push and create stream.

In: objects `{"status", "digest", "total", "completed"}`. Out, on stderr: on a terminal a bar for each digest and a line
for each other status, redrawn ten times a second; elsewhere each status once.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from ...go.human import human_bytes
from .cleaning import clean

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

RATE_SECONDS = 5.0  # window of the rate
LEAST_BAR = 5  # columns; a shorter bar is not shown


class Bar:
    """The progress of one digest. The rate counts from the first update: bytes of an earlier pull do not count."""

    def __init__(self, label: str):
        self.label = label
        self.total = 0
        self.completed = 0
        self._samples: deque[tuple[float, int]] = deque()  # (seconds, completed)

    def update(self, completed: int, total: int, now: float) -> None:
        """Take new numbers of bytes. now: seconds, of the clock that the rate is counted with."""
        self.completed = completed
        self.total = total
        self._samples.append((now, completed))
        while now - self._samples[0][0] > RATE_SECONDS:
            self._samples.popleft()

    @property
    def is_done(self) -> bool:
        """Whether the total is known and all of it has arrived."""
        return bool(self.total) and self.completed >= self.total

    @property
    def rate(self) -> float:
        """Bytes per second; 0 if unknown."""
        (started, first), (ended, last) = self._samples[0], self._samples[-1]
        return max(last - first, 0) / (ended - started) if ended > started else 0.0

    def line(self, width: int) -> str:
        """Format as `pulling dde5aa3fc5ff:  45% ▕████      ▏ 900 MB/2.0 GB   45 MB/s     24s`, filling the width."""
        if not self.total:
            return f"{self.label}: {human_bytes(self.completed)}"
        before = f"{self.label}: {min(self.completed * 100 // self.total, 100):3d}% "
        after = (
            f" {human_bytes(self.total)}"
            if self.is_done
            else f" {human_bytes(self.completed)}/{human_bytes(self.total)}" + self._speed()
        )
        room = width - len(before) - len(after) - 2
        if room < LEAST_BAR:
            return (before + after.strip())[:width]
        filled = min(room * self.completed // self.total, room)
        return f"{before}▕{'█' * filled}{' ' * (room - filled)}▏{after}"

    def _speed(self) -> str:
        if not self.rate:
            return " " * 19
        seconds = int((self.total - self.completed) / self.rate)
        return f" {human_bytes(int(self.rate)) + '/s':>10} {_short_time(seconds):>7}"


def _short_time(seconds: int) -> str:
    """Format a time as `58s`, `1m30s` or `2h05m`."""
    if seconds < 60:
        return f"{seconds}s"
    return (
        f"{seconds // 60}m{seconds % 60:02d}s" if seconds < 3600 else f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    )


class Progress:
    """Context manager; call `progress(piece)` for each object. stays: keep the last state on the terminal."""

    def __init__(self, stays: bool = True):
        self._stays = stays
        self._lines: list[Bar | str] = []
        self._bars: dict[str, Bar] = {}
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._console = Console(stderr=True, highlight=False)
            self._live = Live(
                get_renderable=self._drawn,
                console=self._console,
                refresh_per_second=10,
                vertical_overflow="visible",
                transient=not self._stays,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object):
        if self._live is not None:
            self._live.stop()

    def __call__(self, piece: dict) -> None:
        status, digest = piece.get("status", ""), piece.get("digest", "")
        if self._live is not None:
            status = clean(status)
        is_new = digest not in self._bars if digest else status not in self._lines
        if is_new:
            self._lines.append(self._bars.setdefault(digest, Bar(status)) if digest else status)
            if self._live is None:
                print(status, file=sys.stderr, flush=True)
        if digest:
            self._bars[digest].update(piece.get("completed", 0), piece.get("total", 0), time.monotonic())

    def _drawn(self) -> Text:
        from rich.text import Text

        width = self._console.width - 1
        return Text(
            "\n".join(line.line(width) if isinstance(line, Bar) else line for line in self._lines),
            no_wrap=True,
            overflow="crop",
        )
