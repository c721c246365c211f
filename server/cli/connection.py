"""Finds the server that a command speaks to, or runs one inside of the command.

In: OLLAMA_HOST. Out: a `Client`. A command that needs no long-lived server (`run`, `list`, `show`...) works without
one: it serves itself on a free loopback port for as long as it lasts. Never where OLLAMA_HOST names another machine:
the answer would come from the wrong one.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..http.address import from_environment
from .client import Client


def running_server() -> Client | None:
    """The server of OLLAMA_HOST, if one answers."""
    client = Client.from_environment()
    return client if client.answers() else None


@contextmanager
def connected(own_server: bool = False, announce: bool = False) -> Iterator[Client]:
    """A client of the running server. own_server: start one inside of this process where none runs on this machine;
    announce: and say so on a terminal, with what models run on.

    Raises NoServer from the client's first call where there is none.
    """
    address = from_environment()
    client_url = address.for_clients.url
    client = running_server()
    if client is None and own_server and address.is_local:
        from ..serving import own_server as serve

        if announce and sys.stderr.isatty():
            from vkbackend.device.selection import survey

            click.echo(
                click.style(f"No server at {client_url}; running here. Models run on: {survey().sentence}", dim=True),
                err=True,
            )
        with serve() as url:
            yield Client(url)
    else:
        yield client or Client(client_url)
