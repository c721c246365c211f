"""Converts safetensors of models and adapters to GGUF, and quantizes 16- and 32-bit models.

    create.py -> adapter (llama, gemma3, safetensors) -> source
              -> hugging_face (llama, gemma3, config, safetensors, tokenizer_files -> tokenizer_json,
    sentencepiece_file) -> source
              -> mixture (type of each tensor) -> gguf_out (libgguf)

Knows nothing of HTTP, and of the store only that something takes bytes.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ..quantization import FILE_TYPE_NUMBERS
from . import gguf_out, mixture
from .adapter import from_adapter_folder
from .hugging_face import from_folder
from .source import CannotConvert, Source, from_gguf

__all__ = ["CannotConvert", "Source", "from_adapter_folder", "from_folder", "from_gguf", "write_model"]

REPORT_SECONDS = 0.1  # least time between two reports
FILE_TYPE = "general.file_type"


class Output(Protocol):
    """Receives a file's bytes in order."""

    def write(self, piece: bytes, /) -> None:
        """Append `piece`."""
        ...

    def reserve(self, num_bytes: int, /) -> None:
        """Raise an error if there is no room for `num_bytes`."""
        ...


def write_model(
    source: Source,
    target: str | None,
    output: Output,
    report: Callable[[int, int], None],
    is_cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Write `source` as a GGUF file, quantized to the file type `target` if given.

    report(done, total): bytes of tensors, at most ten times a second and at the end. Raises CannotConvert, also once
    `is_cancelled()`.
    """
    types = mixture.types(target, source.tensors) if target else {}
    total = gguf_out.total_bytes(source, types)
    if target:
        source = replace(source, pairs=source.pairs | {FILE_TYPE: gguf_out.pair(FILE_TYPE, FILE_TYPE_NUMBERS[target])})
    output.reserve(total)
    last = 0.0

    def progress(done: int) -> None:
        nonlocal last
        if is_cancelled():
            raise CannotConvert("cancelled: the client closed the request")
        if done == total or time.monotonic() - last > REPORT_SECONDS:
            last = time.monotonic()
            report(done, total)

    gguf_out.write(source, types, output.write, progress)
