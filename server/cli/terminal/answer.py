"""Prints one streamed answer of /api/generate or /api/chat: text, thinking, colours, timings.

In: a client, a request body. Out: text on stdout; the answer's text and its last object for the caller.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from ...go import durations
from ..client import Client
from .cleaning import clean, echo
from .colours import Painter, TokenText
from .progress import Progress
from .table import columns

if TYPE_CHECKING:
    from rich.status import Status

    from .wordwrap import WordWrap

LOADING = "loading model"  # status of stream lines with the progress of a load
SIGN_SECONDS = 0.5  # show a sign of progress after this time


@dataclass
class Printing:
    """How answers are printed.

    coloured: colour each token by its probability. verbose: print timings at the end, on stderr.
    alternatives: number of alternatives in the table of tokens after the answer; 0 for no table.
    wraps: wrap lines between words on a terminal.
    """

    coloured: bool = False
    verbose: bool = False
    hide_thinking: bool = False
    alternatives: int = 0
    wraps: bool = True


@dataclass
class Answer:
    """A complete answer. last: the last object of the stream, empty if the answer was stopped."""

    text: str = ""
    last: dict = field(default_factory=dict)
    logprobs: list[dict] = field(default_factory=list)


def print_answer(client: Client, path: str, body: dict, printing: Printing) -> Answer:
    """Send `body` to `path` and print the answer as it streams in.

    Ctrl-C ends the request; the printed text stays, and the exception propagates.
    """
    if printing.coloured or printing.alternatives:
        body = body | {"logprobs": True, "top_logprobs": printing.alternatives}
    answer = Answer()
    printer = _Printer(printing)
    waiting = Waiting(body.get("model", ""))
    stream = client.stream(path, body | {"load_progress": True} if waiting.is_shown else body)
    try:
        for piece in stream:
            if piece.get("status") == LOADING:
                waiting.loading(piece)
                continue
            waiting.end()
            message = piece.get("message") or piece
            printer.thinking(message.get("thinking") or "")
            text = (piece.get("response") if "response" in piece else message.get("content")) or ""
            printer.text(text, piece.get("logprobs"))
            answer.logprobs += piece.get("logprobs") or []
            answer.text += text
            if piece.get("done"):
                answer.last = piece
    finally:
        waiting.end()
        stream.close()
        printer.end()
    if printing.alternatives:
        echo("\n".join(alternatives(answer.logprobs)) + "\n")
    if printing.verbose:
        click.echo("\n".join(timings(answer.last)), err=True)
    return answer


class _Printer:
    """Writes thinking and text to stdout."""

    def __init__(self, printing: Printing):
        self._printing = printing
        self._tokens = TokenText()
        self._painter = Painter() if printing.coloured else None
        self.is_terminal = sys.stdout.isatty()
        self._is_thinking = False
        self._coloured_any = False
        self._wrap: WordWrap | None = None

    def thinking(self, text: str) -> None:
        if not text or self._printing.hide_thinking:
            return
        if not self._is_thinking:
            click.echo("Thinking...")
            self._is_thinking = True
        self._write(text, None)

    def text(self, text: str, logprobs: list[dict] | None) -> None:
        pieces = self._tokens.feed(text, logprobs)
        if not text:
            return
        if self._is_thinking:
            click.echo("\n...done thinking.\n")
            self._is_thinking = False
            self._wrap = None
        for part, probability in pieces:
            self._write(part, probability)

    def _write(self, text: str, probability: float | None) -> None:
        for part, own in self._wrapped(clean(text), probability) if self.is_terminal else [(text, probability)]:
            if self._painter is None:
                sys.stdout.write(part)
            else:
                self._painter.write(part, own)
        self._coloured_any |= self._painter is not None and probability is not None
        sys.stdout.flush()

    def _wrapped(self, text: str, probability: float | None) -> list[tuple[str, float | None]]:
        if not self._printing.wraps:
            return [(text, probability)]
        if self._wrap is None:
            from .wordwrap import WordWrap

            self._wrap = WordWrap()
        try:
            width = os.get_terminal_size(sys.stdout.fileno()).columns
        except OSError:
            width = 0
        return self._wrap.feed(text, probability, width)

    def end(self) -> None:
        click.echo("\n")
        if self._painter is not None and self._coloured_any:
            self._painter.legend()


def alternatives(logprobs: list[dict]) -> list[str]:
    """Format a table of the tokens, their probabilities and the likeliest alternatives."""

    def shown(entry: dict) -> str:
        return json.dumps(clean(entry["token"]), ensure_ascii=False)

    def chance(entry: dict) -> str:
        return f"{math.exp(min(entry['logprob'], 0)):.1%}"

    return columns(
        [
            [
                shown(entry),
                chance(entry),
                "  ".join(f"{shown(other)} {chance(other)}" for other in entry.get("top_logprobs") or []),
            ]
            for entry in logprobs
        ],
        ["TOKEN", "PROBABILITY", "LIKELIEST"],
    )


class Waiting:
    """Shows on a terminal that the model is loading or reading the prompt, after SIGN_SECONDS.

    A bar replaces the sign if the server reports the progress of a load. Both disappear when the answer begins.
    """

    def __init__(self, model: str):
        self._timer: threading.Timer | None = None
        self._bar: Progress | None = None
        self._status: Status | None = None
        self.is_shown = sys.stderr.isatty() and sys.stdout.isatty()
        if self.is_shown:
            self._text = f"waiting for {model}" if model else "waiting"
            self._lock = threading.Lock()
            self._timer = threading.Timer(SIGN_SECONDS, self._show)
            self._timer.daemon = True
            self._timer.start()

    def _show(self) -> None:
        with self._lock:
            if self._timer is not None:
                from rich.console import Console

                self._status = Console(stderr=True).status(self._text)
                self._status.start()

    def loading(self, piece: dict) -> None:
        """Show a stream line with the progress of a load."""
        if self._bar is None:
            self._end_sign()
            self._bar = Progress(stays=False).__enter__()
        self._bar(piece | {"status": f"loading {piece.get('model', '')}", "digest": LOADING})

    def end(self) -> None:
        """Remove the sign. May be called repeatedly."""
        self._end_sign()
        if self._bar is not None:
            self._bar.__exit__()
            self._bar = None

    def _end_sign(self) -> None:
        if self._timer is None:
            return
        with self._lock:
            self._timer.cancel()
            self._timer = None
            if self._status is not None:
                self._status.stop()


def timings(last: dict) -> list[str]:
    """Format the timings of an answer as Ollama does. last: the last object of the stream, durations in nanoseconds."""
    lines = []

    def line(name: str, text: str) -> None:
        lines.append(f"{name + ':':<22}{text}")

    def part(name: str, count: int, nanoseconds: int) -> None:
        if count:
            line(f"{name} count", f"{count} token(s)")
        if nanoseconds:
            line(f"{name} duration", durations.text(nanoseconds))
            line(f"{name} rate", f"{count * durations.SECOND / nanoseconds:.2f} tokens/s")

    for name in ("total", "load"):
        if last.get(f"{name}_duration"):
            line(f"{name} duration", durations.text(last[f"{name}_duration"]))
    part("prompt eval", last.get("prompt_eval_count", 0), last.get("prompt_eval_duration", 0))
    part("eval", last.get("eval_count", 0), last.get("eval_duration", 0))
    return lines
