"""Loads damaged models on the CPU path and runs those that load; a program, since damage must not end a process.

In: a folder for files. Out: a line of JSON for each damage, printed before the model is read, and one with the result:
"answered", or the error. `damages` lists them: changes of the header's fields, of bytes at random, and of weights.
"""

import json
import struct
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

from vkbackend.cpu.library import ggml
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import ModelRunner
from vkbackend.errors import VkbackendError
from vkbackend.gguf.reader import GGUFFile, TensorInfo
from vkbackend.loading import load

RANDOM = 40  # files with bytes of the header changed at random, for each architecture
PROMPT = [5, 9, 100, 7, 3]
TYPES = {  # ids of tensor types, gaps and future ones included
    "blk.0.attn_q.weight": (*range(42), 4711),
    "blk.0.ffn_down.weight": (2, 12, 16),
    "blk.0.attn_norm.weight": (1, 2, 24),
    "token_embd.weight": (0, 12, 16),
}
VALUES = {  # of hyperparameters that the tensors do not contradict, or that are absurd
    "attention.head_count": (0, 1, 3, 8, 256, 1 << 31),
    "attention.head_count_kv": (0, 1, 3, 4, 1 << 31),
    "attention.key_length": (0, 1, 63, 128, 1 << 31),
    "block_count": (0, 1, 3),
    "context_length": (0, 1, 33, 1 << 31),
    "embedding_length": (0, 255, 512),
    "attention.layer_norm_rms_epsilon": (0.0, 1e30, float("inf"), float("nan"), -1.0),
    "rope.freq_base": (0.0, 1e-30, 1e30, float("inf"), -1.0),
    "attention.sliding_window": (0, 1, 1 << 31),
}


def damages(folder: Path, architecture: str) -> Iterator[tuple[str, bytes]]:
    """Pairs of (what is wrong, the file)."""
    path = write_tiny_gguf(folder / "whole.gguf", architecture, "q4_0", formats={"blk.0.ffn_down": "q6_k"})
    whole, tensors = path.read_bytes(), GGUFFile.open(path).tensors
    yield "nothing", whole
    for key, values in VALUES.items():
        for value in values:
            yield f"{key} is {value}", with_field(whole, f"{architecture}.{key}", value)
    yield from randomly_changed(whole, min(info.offset for info in tensors.values()))
    if architecture == "llama":
        yield from damaged_tensors(whole, tensors)


def damaged_tensors(whole: bytes, tensors: dict[str, TensorInfo]) -> Iterator[tuple[str, bytes]]:
    """Wrong shapes, types, places and weights."""
    last = max(tensors.values(), key=lambda info: info.offset)
    yield "the last tensor is cut", whole[: last.offset + last.num_bytes // 2]
    yield "the last byte is missing", whole[: last.offset + last.num_bytes - 1]
    for name, types in TYPES.items():
        at = whole.index(name.encode()) + len(name)
        (rank,) = struct.unpack_from("<I", whole, at)
        sizes, kind, offset = at + 4, at + 4 + 8 * rank, at + 8 + 8 * rank
        for rows in (0, 1, 31, 33, 255, 1 << 31, 1 << 62):
            yield f"{name} has rows of {rows}", changed(whole, sizes, "<Q", rows)
        for count in (0, 1, 2, 3, 4, 5):
            yield f"{name} has {count} dimensions", changed(whole, at, "<I", count)
        for number in types:
            yield f"{name} has type {number}", changed(whole, kind, "<I", number)
        for place in (1, 32, len(whole), 1 << 40, (1 << 64) - 32):
            yield f"{name} begins at {place}", changed(whole, offset, "<Q", place)
        info = tensors[name]
        for byte in (b"\x00", b"\xff", b"\x7f", b"\x7c"):  # scales of zero, NaN, large and infinity
            yield (
                f"{name} consists of {byte!r}",
                whole[: info.offset] + byte * info.num_bytes + whole[info.offset + info.num_bytes :],
            )


def changed(whole: bytes, at: int, format: str, value: float) -> bytes:
    return whole[:at] + struct.pack(format, value) + whole[at + struct.calcsize(format) :]


def with_field(whole: bytes, key: str, value: float) -> bytes:
    """The file with another value of a field of four bytes, or as it is if it has no such field."""
    at = whole.find(struct.pack("<Q", len(key)) + key.encode())
    return whole if at < 0 else changed(whole, at + 8 + len(key) + 4, "<f" if isinstance(value, float) else "<I", value)


def randomly_changed(whole: bytes, header: int) -> Iterator[tuple[str, bytes]]:
    """Some bytes of the header outside of the vocabulary."""
    rng = np.random.default_rng(5)
    first, last = whole.index(b"tokenizer.ggml.tokens"), whole.rindex(b"tokenizer.ggml.")
    places = np.concatenate([np.arange(first), np.arange(last, header)])
    for turn in range(RANDOM):
        damaged = bytearray(whole)
        for at in rng.choice(places, int(rng.integers(1, 3))):
            damaged[at] = int(rng.integers(0, 256))
        yield f"random damage {turn}", bytes(damaged)


def run(path: Path) -> str:
    """Load a model and run a prompt, a decoding step and a step of two sequences."""
    try:
        model = load(path)
        runner = ModelRunner(model, context_length=64, max_sequences=2, num_threads=1)
        with closing(Released(runner)):
            one, other = runner.open_sequence(), runner.open_sequence()
            runner.step([SequenceWork(one, PROMPT, 1)])
            runner.step([SequenceWork(one, [9], 1)])
            runner.step([SequenceWork(one, [7], 1), SequenceWork(other, PROMPT[:2], targets=PROMPT[1:3])])
    except VkbackendError as error:
        return str(error)
    return "answered"


class Released:
    def __init__(self, runner: ModelRunner):
        self.close = runner.release


def main(folder: Path) -> None:
    assert ggml() is not None, "damage is to be tried on ggml"
    path = folder / "damaged.gguf"
    for architecture in ARCHITECTURES:
        for name, data in damages(folder, architecture):
            path.write_bytes(data)
            print(json.dumps({"damage": f"{architecture}: {name}"}), flush=True)
            print(json.dumps({"result": run(path)}), flush=True)
            path.unlink()  # models that are still in memory keep their own file


if __name__ == "__main__":
    main(Path(sys.argv[1]))
