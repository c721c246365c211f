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

# Command -> (module, click command in it). A module is imported when its command runs, which keeps the start fast.
COMMANDS = {
    "serve": ("serve", "serve"),
    "create": ("create", "create"),
    "show": ("models", "show"),
    "run": ("run", "run"),
    "stop": ("models", "stop"),
    "pull": ("pull", "pull"),
    "push": ("push", "push"),
    "list": ("models", "list_models"),
    "ps": ("models", "ps"),
    "cp": ("models", "copy"),
    "rm": ("models", "remove"),
    "devices": ("devices", "devices"),
    "check": ("check", "check"),
    "bench": ("bench", "bench"),
    "doctor": ("doctor", "doctor"),
    "completion": ("completion", "completion"),
    "help": ("completion", "show_help"),
    "perplexity": ("perplexity", "perplexity"),
}
ALIASES = {"ls": "list", "start": "serve"}


class Failure(click.ClickException):
    """Prints `Error: ...` on stderr and exits with status 1."""

    exit_code = 1

    def show(self, file: IO[str] | None = None) -> None:
        echo(f"Error: {self.format_message()}", err=True)


class CommandGroup(click.Group):
    """Looks commands up in COMMANDS and ALIASES and turns errors into Failures."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name]
        return getattr(importlib.import_module(f".{module}", __package__), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise Failure(f'unknown command "{args[0]}" for "{ctx.info_name}"; see `{ctx.info_name} --help`')
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except VkbackendError as error:
            raise Failure(str(error)) from None
        except BrokenPipeError:
            # The reader of our output is gone (`vkbackend list | head -1`). Closing stdout must not fail, either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(1) from None

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_environment(formatter)


class CommandWithEnvironment(click.Command):
    """A command whose help ends with the environment variables."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
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
