"""`completion`: prints scripts that let a shell complete commands, options and model names; and `help`.

vkbackend completion bash > ~/.local/share/bash-completion/completions/vkbackend
"""

import click

COMMAND, VARIABLE = "vkbackend", "_VKBACKEND_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None  # click has one for each of SHELLS
    click.echo(script(context.find_root().command, {}, COMMAND, VARIABLE).source())


@click.command("help")
@click.argument("command", nargs=-1)
@click.pass_context
def show_help(context: click.Context, command: tuple[str, ...]) -> None:
    """Help about any command."""
    from .main import Failure

    root = context.find_root()
    if not command:
        click.echo(root.get_help())
        return
    assert isinstance(root.command, click.Group)
    found = root.command.get_command(root, command[0])
    if found is None:
        raise Failure(f'unknown command "{command[0]}" for "{root.info_name}"; see `{root.info_name} --help`')
    click.echo(found.get_help(click.Context(found, info_name=command[0], parent=root)))


def model_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a stored model. Returns none if the store cannot be read: a shell must not show errors."""
    from vkbackend import settings
    from vkbackend.errors import VkbackendError

    from ..library.store import Store

    try:
        names = [model.name for model in Store(settings.models_folder()).list()]
    except (VkbackendError, OSError):
        return []
    return [name.removesuffix(":latest") for name in names if name.startswith(incomplete)]
