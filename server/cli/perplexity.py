"""`perplexity`: computes a model's perplexity on a text, on the device that models run on."""

import time
from contextlib import closing
from typing import BinaryIO

import click

from ..go import encode
from .bench import gguf_path
from .command_log import command_log
from .main import Failure


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option(
    "-m", "--model", default="", metavar="MODEL", help="Model name (see `vkbackend list`) or path of a GGUF file."
)
@click.option(
    "--context",
    type=click.IntRange(2),
    default=None,
    help="Context length in tokens (default: OLLAMA_CONTEXT_LENGTH).",
)
@click.option(
    "--tokens", "num_tokens", type=click.IntRange(2), default=None, help="Use only this many tokens from the start."
)
@click.option("--cpu", is_flag=True, help="Run on the CPU.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def perplexity(
    file: BinaryIO, model: str, context: int | None, num_tokens: int | None, cpu: bool, as_json: bool
) -> None:
    """Measure how well a model predicts a text.

    Computes MODEL's perplexity on FILE (- for standard input); lower is better. A text longer than the
    context is scored in windows that overlap by half.
    """
    if not model:
        raise Failure("no model given: use --model with a name or the path of a GGUF file")
    try:
        text = file.read().decode()
    except UnicodeDecodeError as error:
        raise Failure(
            f"{file.name} is not UTF-8 text ({error.reason} at byte {error.start}); convert it first"
        ) from None
    from vkbackend.engine.perplexity import perplexity as measure
    from vkbackend.placement.opening import open_engine

    with (
        command_log(),
        closing(
            open_engine(gguf_path(model), context_length=context, num_parallel=1, num_gpu=0 if cpu else -1)
        ) as opened,
    ):
        tokens = opened.tokenizer.encode(text)[:num_tokens]
        begin = time.perf_counter()
        found = measure(opened.engine, tokens)
        seconds = time.perf_counter() - begin
        where = opened.device_name
    if as_json:
        click.echo(
            encode.dumps(
                {
                    "model": model,
                    "perplexity": found.value,
                    "mean_logprob": found.mean_logprob,
                    "tokens": found.num_tokens,
                    "context": found.context,
                    "seconds": seconds,
                    "device": where,
                }
            )
        )
    else:
        click.echo(
            f"perplexity {found.value:.4f} ({-found.mean_logprob:.4f} nats per token) over {found.num_tokens:,} tokens"
            f", context {found.context:,}; {seconds:.1f} s on {where}"
        )
