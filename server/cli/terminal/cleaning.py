"""Removes control characters from untrusted text (of models, of servers) before it is written to a terminal.

Text written to files and pipes is unchanged.
"""

import re
import sys

import click

# Control characters, which could move the cursor or worse, and surrogates.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def clean(text: str) -> str:
    """Replace control characters except newlines and tabs."""
    return CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def echo(text: str = "", err: bool = False) -> None:
    """Write a line to stdout or stderr, cleaned if that is a terminal."""
    is_terminal = (sys.stderr if err else sys.stdout).isatty()
    click.echo(
        clean(text) if is_terminal else text, err=err, color=True
    )  # color: click does not strip escape sequences
