"""`run`: one prompt and its answer, or a conversation.

Speaks to the running server; without one, serves itself as long as it lasts. A path to a GGUF file becomes a model
of that name first.
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
    help="Show each token's probability and the N likeliest in its place (default 5) after the answer.",
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
    help="For embedding models: cut inputs that exceed the context length (the default), or, with --truncate=false, "
    "refuse them.",
)
@click.option(
    "--dimensions",
    type=click.IntRange(0),
    default=0,
    help="For embedding models: cut the embedding to so many numbers.",
)
def run(
    model,
    prompt,
    keepalive,
    verbose,
    insecure,
    no_color,
    logprobs,
    response_format,
    think,
    hidethinking,
    nowordwrap,
    truncate,
    dimensions,
):
    """Run a model.

    A model that is not there is pulled first. Without a PROMPT, and with no text piped in, a conversation starts.
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
            from .conversation import converse

            converse(client, name, info, common, printing)
        elif "embedding" in (info.get("capabilities") or []):
            embedding = {"dimensions": dimensions} if dimensions else {}
            print_embedding(
                client, name, text, common | embedding | ({} if truncate is None else {"truncate": truncate})
            )
        else:
            answer_once(client, name, text, common, printing)


def common_fields(keepalive: str, response_format: str, think: str | None) -> dict:
    """Request fields from options. Raises Failure for values that no request takes."""
    common = {}
    if keepalive:
        try:
            durations.parse(keepalive)
        except ValueError as error:
            raise Failure(str(error)) from None
        common["keep_alive"] = keepalive
    if response_format not in FORMATS:
        raise Failure(f"invalid response format {response_format!r}; json is the only one")
    if response_format:
        common["format"] = response_format
    if think is not None:
        if think not in ("true", "false", "high", "medium", "low"):
            raise Failure(f'invalid value for --think: "{think}" (must be true, false, high, medium, or low)')
        common["think"] = {"true": True, "false": False}.get(think, think)
    return common


def show_or_pull(client: Client, name: str, insecure: bool = False) -> dict:
    """What /api/show says of a model, which is pulled where it is not there. Raises ServerError."""
    try:
        return client.call("POST", "/api/show", {"model": name})
    except ServerError as error:
        if error.status != 404:
            raise
    pull_model(client, name, insecure)
    return client.call("POST", "/api/show", {"model": name})


def model_name(client: Client, text: str) -> str:
    """`text`, or, where it is the path of a GGUF file, the name of the model made from it."""
    if Path(text).suffix.lower() != ".gguf":
        return text
    path = settings.expanded(text)
    if not path.is_file():
        raise Failure(f"{text}: no such file; give the path of a GGUF file or the name of a model (`vkbackend list`)")
    name = name_of_file(path)
    create_from_gguf(client, name, path)
    return name


def name_of_file(path: Path) -> str:
    """The file's name with what no model name may hold replaced by dashes."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).strip("-.")[:80] or "model"


def answer_once(client: Client, name: str, prompt: str, common: dict, printing: Printing) -> None:
    try:
        print_answer(client, "/api/generate", {"model": name, "prompt": prompt} | common, printing)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None


def print_embedding(client: Client, name: str, text: str, common: dict) -> None:
    """A model that only embeds gives the vector as JSON."""
    keep = {key: value for key, value in common.items() if key in ("keep_alive", "dimensions", "truncate")}
    answer = client.call("POST", "/api/embed", {"model": name, "input": text} | keep)
    click.echo(json.dumps(answer["embeddings"][0]))
