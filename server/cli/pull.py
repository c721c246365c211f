"""`pull`: a model from a registry, through the running server, or through one inside of this process."""

import click

from .client import Client
from .connection import connected
from .terminal.progress import Progress


@click.command()
@click.argument("model")
@click.option("--insecure", is_flag=True, help="Use an insecure registry.")
def pull(model, insecure):
    """Pull a model from a registry."""
    with connected(own_server=True) as client:
        pull_model(client, model, insecure)


def pull_model(client: Client, name: str, insecure: bool = False) -> None:
    """Shows how far it is. Raises ServerError. Ctrl-C ends it; what has come is kept, and the next pull goes on from
    there.
    """
    exchange(client, "/api/pull", name, insecure)


def exchange(client: Client, path: str, name: str, insecure: bool) -> None:
    try:
        with Progress() as progress:
            for piece in client.stream(path, {"model": name, "insecure": insecure}):
                progress(piece)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None
