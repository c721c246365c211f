"""`push`: pushes a model to a registry, through the running server or one in this process."""

import click

from ..library.names import DEFAULT_HOST, DEFAULT_TAG, parse_name
from .connection import connected
from .pull import exchange


@click.command()
@click.argument("model")
@click.option("--insecure", is_flag=True, help="Use an insecure registry.")
def push(model: str, insecure: bool) -> None:
    """Push a model to a registry."""
    with connected(own_server=True) as client:
        exchange(client, "/api/push", model, insecure)
    name = parse_name(model)
    if name.host == DEFAULT_HOST:
        click.echo(
            f"\nYou can find your model at:\n\n\thttps://ollama.com/{name.shortest.removesuffix(':' + DEFAULT_TAG)}\n"
        )
