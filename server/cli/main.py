"""The group of all commands: which file each one lives in, how errors end the process, the table of environment
variables.
"""

import importlib
import os
import sys
import textwrap

import click

from vkbackend import settings
from vkbackend.errors import VkbackendError

from ..version import version
from .terminal.cleaning import echo

# Command -> (module, the click command in it). Modules are imported when their command runs: `create` must not pay for
# the devices' code.
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
    """`Error: ...` on stderr, exit status 1."""

    exit_code = 1

    def show(self, file=None) -> None:
        echo(f"Error: {self.format_message()}", err=True)


class CommandGroup(click.Group):
    def list_commands(self, context):
        return list(COMMANDS)

    def get_command(self, context, name):
        name = ALIASES.get(name, name)
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name]
        return getattr(importlib.import_module(f".{module}", __package__), attribute)

    def resolve_command(self, context, args):
        if self.get_command(context, args[0]) is None and not args[0].startswith("-"):
            raise Failure(f'unknown command "{args[0]}" for "{context.info_name}"; see `{context.info_name} --help`')
        return super().resolve_command(context, args)

    def invoke(self, context):
        try:
            return super().invoke(context)
        except VkbackendError as error:
            raise Failure(str(error)) from None
        except BrokenPipeError:
            # The reader of our output has gone (`vkbackend list | head -1`): nothing left to say, not even on closing
            # stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(1) from None

    def format_epilog(self, context, formatter):
        write_environment(formatter)


class CommandWithEnvironment(click.Command):
    """A command whose help ends with the environment variables."""

    def format_epilog(self, context, formatter):
        write_environment(formatter)


def write_environment(formatter: click.HelpFormatter) -> None:
    """Every row of vkbackend/settings.py."""
    width = max(len(row.name) for row in settings.ROWS)
    with formatter.section("Environment Variables"):
        for row in settings.ROWS:
            default = "" if row.default in ("", False) else f" (default {row.default})"
            text = textwrap.wrap(row.sentence + default, max(formatter.width - width - 4, 30))
            formatter.write(f"  {row.name.ljust(width)}  {text[0]}\n")
            for line in text[1:]:
                formatter.write(f"  {' ' * width}  {line}\n")


def _show_version(context, _, wanted):
    if wanted and not context.resilient_parsing:
        click.echo(f"vkbackend version is {version()}")
        context.exit()


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "-v", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def cli():
    """Runs GGUF language models on any Vulkan GPU, and serves them as Ollama does."""
