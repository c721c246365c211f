"""Finds the server for a command, or starts one in the command's process.

In: OLLAMA_HOST. Out: a `Client`. Commands that need no long-lived server (`run`, `list`, `show`, ...) work without one:
they start their own on a free loopback port. They do not if OLLAMA_HOST names another machine, because the answer
would come from the wrong one.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..http.address import from_environment
from .client import Client


def running_server() -> Client | None:
    """Return a client of the server at OLLAMA_HOST, or None if none answers."""
    client = Client.from_environment()
    return client if client.answers() else None


@contextmanager
def connected(own_server: bool = False, announce: bool = False) -> Iterator[Client]:
    """Context manager: a client of the running server.

    own_server: start one in this process if none runs on this machine. announce: report that on a terminal, with the
    device models run on. Without a server the client's first call raises NoServer.
    """
    address = from_environment()
    client_url = address.for_clients.url
    client = running_server()
    if client is None and own_server and address.is_local:
        from ..serving import own_server as serve

        if announce and sys.stderr.isatty():
            from vkbackend.device.selection import survey_for_models

            from .path_rates import advice

            found = survey_for_models()
            lines = [f"No server at {client_url}; starting one for this command. Models run on: {found.sentence}"]
            lines += filter(None, [advice(found)])
            click.echo(click.style("\n".join(lines), dim=True), err=True)
        with serve() as url:
            yield Client(url)
    else:
        yield client or Client(client_url)
