"""`completion`: what a shell needs to complete commands, options and the names of models; and `help`.

vkbackend completion bash > ~/.local/share/bash-completion/completions/vkbackend
"""

import click

COMMAND, VARIABLE = "vkbackend", "_VKBACKEND_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context, shell):
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    click.echo(get_completion_class(shell)(context.find_root().command, {}, COMMAND, VARIABLE).source())


@click.command("help")
@click.argument("command", nargs=-1)
@click.pass_context
def show_help(context, command):
    """Help about any command."""
    from .main import Failure

    root = context.find_root()
    if not command:
        click.echo(root.get_help())
        return
    found = root.command.get_command(root, command[0])
    if found is None:
        raise Failure(f'unknown command "{command[0]}" for "{root.info_name}"; see `{root.info_name} --help`')
    click.echo(found.get_help(click.Context(found, info_name=command[0], parent=root)))


def model_names(context, parameter, incomplete: str) -> list[str]:
    """Of the models in the store that begin like it; none where the store cannot be read: a shell shows no errors."""
    from vkbackend import settings
    from vkbackend.errors import VkbackendError

    from ..library.store import Store

    try:
        names = [model.name for model in Store(settings.models_folder()).list()]
    except (VkbackendError, OSError):
        return []
    return [name.removesuffix(":latest") for name in names if name.startswith(incomplete)]
