"""The command group: the table of commands, how errors end the process, the table of environment variables."""

import importlib
import os
import sys
import textwrap
from typing import IO

import click

from vkbackend import settings
from vkbackend.errors import VkbackendError

from ..version import version
from .terminal.cleaning import echo

# Command -> (module, the click command in it, the first sentence of its help). Modules are imported when their command
# runs: `--help` and `list` must not pay for the devices' code.
COMMANDS = {
    "serve": ("serve", "serve", "Start the server."),
    "create": ("create", "create", "Create a model."),
    "show": ("models", "show", "Show information for a model."),
    "run": ("run", "run", "Run a model."),
    "stop": ("models", "stop", "Stop a running model."),
    "pull": ("pull", "pull", "Pull a model from a registry."),
    "push": ("push", "push", "Push a model to a registry."),
    "list": ("models", "list_models", "List models."),
    "ps": ("models", "ps", "List running models."),
    "cp": ("models", "copy", "Copy a model."),
    "rm": ("models", "remove", "Remove models."),
    "devices": ("devices", "devices", "List Vulkan devices, which ones are used, and why."),
    "check": ("check", "check", "Compare every kernel with its numpy reference on your devices."),
    "bench": ("bench", "bench", "Measure a model's speed."),
    "doctor": ("doctor", "doctor", "Check devices, kernels and a model, and write a report."),
    "completion": ("completion", "completion", "Print the completion script for a shell."),
    "help": ("completion", "show_help", "Help about any command."),
    "perplexity": ("perplexity", "perplexity", "Measure how well a model predicts a text."),
}
ALIASES = {"ls": "list", "start": "serve"}


class Failure(click.ClickException):
    """Prints `Error: ...` on stderr and exits with status 1."""

    exit_code = 1

    def show(self, file: IO[str] | None = None) -> None:
        """Write the message to stderr."""
        echo(f"Error: {self.format_message()}", err=True)


class CommandGroup(click.Group):
    """Looks commands up in COMMANDS and ALIASES and turns errors into Failures."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command with this name or alias, whose module is imported only now; None for an unknown name."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        return getattr(importlib.import_module(f".{module}", __package__), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, _, sentence) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names. Raises Failure for an unknown one."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise Failure(f'unknown command "{args[0]}" for "{ctx.info_name}"; see `{ctx.info_name} --help`')
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. Raises Failure for a VkbackendError; exits with 1 if nobody reads the output any more."""
        try:
            return super().invoke(ctx)
        except VkbackendError as error:
            raise Failure(str(error)) from None
        except BrokenPipeError:
            # The reader of our output is gone (`vkbackend list | head -1`). Closing stdout must not fail, either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(1) from None

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """End the help page with the environment variables."""
        write_environment(formatter)


class CommandWithEnvironment(click.Command):
    """A command whose help ends with the environment variables."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """End the help page with the environment variables."""
        write_environment(formatter)


def write_environment(formatter: click.HelpFormatter) -> None:
    """Write every row of vkbackend/settings.py."""
    width = max(len(row.name) for row in settings.ROWS)
    with formatter.section("Environment Variables"):
        for row in settings.ROWS:
            default = "" if row.shown_default in ("", "0") else f" (default {row.shown_default})"
            text = textwrap.wrap(row.sentence + default, max(formatter.width - width - 4, 30))
            formatter.write(f"  {row.name.ljust(width)}  {text[0]}\n")
            for line in text[1:]:
                formatter.write(f"  {' ' * width}  {line}\n")


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(f"vkbackend version is {version()}")
        context.exit()


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "-v", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def cli() -> None:
    """Runs GGUF language models on any Vulkan GPU, with the API of Ollama."""
