"""`run`: answers one prompt, or starts a conversation.

Uses the running server, or starts one for as long as the command runs. The path of a GGUF file is first created as a
model with the file's name.
"""

import json
import re
import sys
from pathlib import Path

import click

from vkbackend import settings

from ..go import durations
from .client import Client, ServerError
from .completion import model_names
from .connection import connected
from .create import create_from_gguf
from .main import Failure
from .pull import pull_model
from .terminal import colours
from .terminal.answer import Printing, print_answer

FORMATS = ("", "json")


@click.command()
@click.argument("model", shell_complete=model_names)
@click.argument("prompt", nargs=-1)
@click.option("--keepalive", default="", help="Duration to keep a model loaded (e.g. 5m).")
@click.option("--verbose", is_flag=True, help="Show timings for response.")
@click.option("--insecure", is_flag=True, help="Use an insecure registry.")
@click.option("--no-color", is_flag=True, help="Do not colour tokens by their probability.")
@click.option(
    "--logprobs",
    type=click.IntRange(1, 20),
    is_flag=False,
    flag_value=5,
    default=None,
    metavar="[N]",
    help="After the answer, show each token's probability and its N likeliest alternatives (default 5).",
)
@click.option("--format", "response_format", default="", help="Response format (e.g. json).")
@click.option(
    "--think",
    is_flag=False,
    flag_value="true",
    default=None,
    help="Enable thinking mode: true/false or high/medium/low for supported models.",
)
@click.option("--hidethinking", is_flag=True, help="Hide thinking output (if provided).")
@click.option("--nowordwrap", is_flag=True, help="Don't wrap words to the next line automatically.")
@click.option(
    "--truncate",
    type=bool,
    is_flag=False,
    flag_value=True,
    default=None,
    metavar="[BOOLEAN]",
    help="For embedding models: truncate inputs that exceed the context length (default), or reject them with "
    "--truncate=false.",
)
@click.option(
    "--dimensions",
    type=click.IntRange(0),
    default=0,
    help="For embedding models: truncate the embedding to this many dimensions.",
)
def run(
    model: str,
    prompt: tuple[str, ...],
    keepalive: str,
    verbose: bool,
    insecure: bool,
    no_color: bool,
    logprobs: int | None,
    response_format: str,
    think: str | None,
    hidethinking: bool,
    nowordwrap: bool,
    truncate: bool | None,
    dimensions: int,
) -> None:
    """Run a model.

    Pulls the model if it does not exist. Starts a conversation if there is no PROMPT and no piped input.
    """
    common = common_fields(keepalive, response_format, think)
    text = " ".join(prompt)
    is_interactive = not prompt and sys.stdin.isatty()
    if not sys.stdin.isatty():
        piped = sys.stdin.buffer.read().decode("utf-8", "replace")
        text = f"{piped} {text}" if piped and text else piped or text
    printing = Printing(colours.wanted(no_color), verbose, hidethinking, logprobs or 0, not nowordwrap)
    with connected(own_server=True, announce=True) as client:
        name = model_name(client, model)
        info = show_or_pull(client, name, insecure)
        if is_interactive:
            from .interactive import converse

            converse(client, name, info, common, printing)
        elif "embedding" in (info.get("capabilities") or []):
            embedding = {"dimensions": dimensions} if dimensions else {}
            print_embedding(
                client, name, text, common | embedding | ({} if truncate is None else {"truncate": truncate})
            )
        else:
            answer_once(client, name, text, common, printing)


def common_fields(keepalive: str, response_format: str, think: str | None) -> dict:
    """Convert options to request fields. Raises Failure for invalid values."""
    common = {}
    if keepalive:
        try:
            durations.parse(keepalive)
        except ValueError as error:
            raise Failure(str(error)) from None
        common["keep_alive"] = keepalive
    if response_format not in FORMATS:
        raise Failure(f"invalid response format {response_format!r}; only json is supported")
    if response_format:
        common["format"] = response_format
    if think is not None:
        if think not in ("true", "false", "high", "medium", "low"):
            raise Failure(f'invalid value for --think: "{think}" (must be true, false, high, medium, or low)')
        common["think"] = {"true": True, "false": False}.get(think, think)
    return common


def show_or_pull(client: Client, name: str, insecure: bool = False) -> dict:
    """Return the answer of /api/show; pulls the model if it does not exist. Raises ServerError."""
    try:
        return client.call("POST", "/api/show", {"model": name})
    except ServerError as error:
        if error.status != 404:
            raise
    pull_model(client, name, insecure)
    return client.call("POST", "/api/show", {"model": name})


def model_name(client: Client, text: str) -> str:
    """Return `text`, or the name of the model created from it if it is the path of a GGUF file."""
    if Path(text).suffix.lower() != ".gguf":
        return text
    path = settings.expanded(text)
    if not path.is_file():
        raise Failure(f"{text}: no such file; give the path of a GGUF file or the name of a model (`vkbackend list`)")
    name = name_of_file(path)
    create_from_gguf(client, name, path)
    return name


def name_of_file(path: Path) -> str:
    """Turn a file's name into a model name: invalid characters become dashes."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).strip("-.")[:80] or "model"


def answer_once(client: Client, name: str, prompt: str, common: dict, printing: Printing) -> None:
    """Answer one prompt through /api/generate. Ctrl-C exits with status 130."""
    try:
        print_answer(client, "/api/generate", {"model": name, "prompt": prompt} | common, printing)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None


def print_embedding(client: Client, name: str, text: str, common: dict) -> None:
    """Print the embedding of a text as JSON, for models that only embed."""
    keep = {key: value for key, value in common.items() if key in ("keep_alive", "dimensions", "truncate")}
    answer = client.call("POST", "/api/embed", {"model": name, "input": text} | keep)
    click.echo(json.dumps(answer["embeddings"][0]))
