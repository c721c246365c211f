"""Weights in, a GGUF file out: safetensors are converted, models of 16 or 32 bits quantized.

    create.py -> hugging_face (llama, gemma3, config, safetensors, tokenizer_files -> tokenizer_json,
    sentencepiece_file) -> source
              -> mixture (which type each tensor gets) -> gguf_out (libgguf)

Knows nothing of the store but a thing that takes bytes, and nothing of HTTP.
"""

import time
from dataclasses import replace

from ..quantization import FILE_TYPE_NUMBERS
from . import gguf_out, mixture
from .hugging_face import from_folder
from .source import CannotConvert, Source, from_gguf

__all__ = ["CannotConvert", "Source", "from_folder", "from_gguf", "write_model"]

REPORT_SECONDS = 0.1
FILE_TYPE = "general.file_type"


def write_model(source: Source, target: str | None, upload, report, cancelled=None) -> None:
    """Write `source` into `upload` (`write(bytes)`, `reserve(num_bytes)`); quantized to the file type `target` where
    there is one.

    report(done, total): bytes of tensors, at most ten times a second and at the end. cancelled: an Event, set where
    nobody wants the result. Raises CannotConvert.
    """
    types = mixture.types(target, source.tensors) if target else {}
    total = gguf_out.total_bytes(source, types)
    if target:
        source = replace(source, pairs=source.pairs | {FILE_TYPE: gguf_out.pair(FILE_TYPE, FILE_TYPE_NUMBERS[target])})
    upload.reserve(total)
    last = 0.0

    def progress(done):
        nonlocal last
        if cancelled is not None and cancelled.is_set():
            raise CannotConvert("the client has left, so its model is not written")
        if done == total or time.monotonic() - last > REPORT_SECONDS:
            last = time.monotonic()
            report(done, total)

    gguf_out.write(source, types, upload.write, progress)
