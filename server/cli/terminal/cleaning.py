"""What may be written to a terminal of texts that others wrote: of models, of servers. Elsewhere (files, pipes) they
pass untouched."""

import re
import sys

import click

# What could move a terminal's cursor or worse, and what is no character at all; a model may say anything.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def clean(text: str) -> str:
    """Without escape sequences; lines and tabs stay."""
    return CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def echo(text: str = "", err: bool = False) -> None:
    """A line on stdout or stderr, cleaned where that is a terminal."""
    is_terminal = (sys.stderr if err else sys.stdout).isatty()
    click.echo(clean(text) if is_terminal else text, err=err, color=True)  # color: click leaves the text as it is
