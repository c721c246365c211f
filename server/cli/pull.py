"""`pull`: pulls a model from a registry, through the running server or one in this process."""

import click

from .client import Client
from .connection import connected
from .terminal.progress import Progress


@click.command()
@click.argument("model")
@click.option("--insecure", is_flag=True, help="Use an insecure registry.")
def pull(model: str, insecure: bool) -> None:
    """Pull a model from a registry."""
    with connected(own_server=True) as client:
        pull_model(client, model, insecure)


def pull_model(client: Client, name: str, insecure: bool = False) -> None:
    """Pull a model and show the progress. Raises ServerError. After Ctrl-C, the next pull resumes the download."""
    exchange(client, "/api/pull", name, insecure)


def exchange(client: Client, path: str, name: str, insecure: bool) -> None:
    """Send a pull or push request and show the progress."""
    try:
        with Progress() as progress:
            for piece in client.stream(path, {"model": name, "insecure": insecure}):
                progress(piece)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None
