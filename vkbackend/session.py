"""A model opened for inspection: logits and log-probabilities of a token list, a single layer, any intermediate by
name, the time of each dispatch. For people who write or debug shaders; the server uses `engine` instead.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .cpu.executor import host_path
from .device.buffers import Arena
from .device.context import Device
from .device.dispatch import Dispatch
from .engine.contract import SequenceWork
from .engine.prompt import MAX_ROPE_POSITION
from .engine.runner import PAGE_SIZE, ModelRunner
from .errors import RequestError, brief
from .graph.builder import Graph, Value
from .graph.cache import CacheStorage
from .graph.cache_layout import CacheLayout
from .graph.executor import DeviceExecutor
from .graph.model import Caches, Model, Norm
from .graph.step import NO_ROWS, LogitsRow, PageTable, StepInputs
from .loading import load
from .tokenizer import Tokenizer

CHUNK = 32  # tokens per step, whose logits are read together


class Session:
    """A model opened for inspection.

    path: a GGUF file
    device: an open `Device`, or None for the numpy twins
    kv_type: "f16", "f32" or "q8_0"
    keep: do not reuse the memory of intermediates, so that `read` finds them
    timestamps: time each dispatch
    Raises ValueError for arguments of a wrong type, and what `loading.load` and `ModelRunner` raise. If the device is
    lost, the call that lost it raises DeviceLost and the next one loads the model again.
    """

    def __init__(
        self,
        path: str | Path,
        device: Device | None = None,
        *,
        context_length: int = 2048,
        kv_type: str = "f16",
        keep: bool = False,
        timestamps: bool = False,
    ):
        is_integer = isinstance(context_length, (int, np.integer)) and not isinstance(context_length, bool)
        if not is_integer or not 1 <= context_length <= MAX_ROPE_POSITION:
            raise ValueError(
                f"context_length is {brief(context_length)}; it must be a number of tokens, 1 to {MAX_ROPE_POSITION}"
            )
        if device is not None and not isinstance(device, Device):
            raise ValueError(
                f"device is {brief(device)}; it must be an open device (vkbackend.open_device()), or None for the "
                f"numpy reference"
            )
        self.path = path
        self.device = device
        self._make_runner = partial(
            ModelRunner,
            context_length=context_length,
            kv_type=kv_type,
            prefill_chunk=CHUNK,
            keep=keep,
            timestamps=timestamps,
        )
        self._load()
        self.tokenizer = Tokenizer.from_gguf(self.model.gguf)

    def _load(self) -> None:
        self.model = load(self.path, self.device)
        self.runner = self._make_runner(self.model)
        self._generation = self.device.generation if self.device else 0

    def _reload_if_lost(self) -> None:
        """Load the model again if its device was lost, and with it the weights and the cache."""
        if self.device is None:
            return
        self.device.reopen_if_lost()
        if self.device.generation != self._generation:
            del self.model, self.runner  # makes room for the new ones
            self._load()

    def rows(self, tokens: Iterable[int]) -> Iterator[LogitsRow]:
        """Yield the `LogitsRow` after each token.

        A row is valid until the next one is requested or another method of this session runs a step. Raises ValueError
        if `tokens` is not a list of token ids, RequestError for ids outside of the vocabulary.
        """
        return self._rows(self._ids(tokens))

    def _rows(self, ids: list[int]) -> Iterator[LogitsRow]:
        with self._sequence() as sequence:
            for first in range(0, len(ids), CHUNK):
                if sequence not in self.runner.sequences:
                    raise ValueError("rows: another call of this session has run in the meantime; call rows again")
                chunk = ids[first : first + CHUNK]
                yield from self._step(SequenceWork(sequence, chunk, len(chunk)))

    def _step(self, work: SequenceWork) -> Iterator[LogitsRow]:
        for row in self.runner.step([work]):
            assert isinstance(row, LogitsRow), "no hidden states were requested"
            yield row

    @contextmanager
    def _sequence(self) -> Iterator[int]:
        """The id of an open sequence. A session has one at a time; that of unfinished `rows` is closed."""
        self._reload_if_lost()
        for left in list(self.runner.sequences):
            self.runner.close_sequence(left)
        sequence = self.runner.open_sequence()
        try:
            yield sequence
        finally:
            if sequence in self.runner.sequences:
                self.runner.close_sequence(sequence)

    def _ids(self, tokens: Iterable[int]) -> list[int]:
        """Check that `tokens` are ids of the vocabulary. Raises ValueError, RequestError."""
        if isinstance(tokens, (str, bytes)):
            raise ValueError(
                f"tokens is {type(tokens).__name__}; it must be a list of token ids: session.tokenizer.encode(text) "
                f"makes them"
            )
        try:
            ids = list(tokens)
        except TypeError:
            raise ValueError(f"tokens is {type(tokens).__name__}; it must be a list of token ids") from None
        for at, token in enumerate(ids):
            if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
                raise ValueError(
                    f"tokens[{at}] is {brief(token)} ({type(token).__name__}); it must be a token id, an integer"
                )
            if not 0 <= token < self.runner.vocab_size:
                raise RequestError(
                    f"tokens[{at}] is {brief(token)}, which is outside of the vocabulary of {self.runner.vocab_size}"
                )
        return [int(token) for token in ids]

    def logits(self, tokens: Iterable[int]) -> np.ndarray:
        """Raw logits after each token, f32 (len(tokens), vocabulary). Raises what `rows` raises."""
        found = [row.full() for row in self.rows(tokens)]
        return np.stack(found) if found else np.zeros((0, self.runner.vocab_size), np.float32)

    def logprobs(self, tokens: Iterable[int]) -> np.ndarray:
        """Natural log-probability of each token after the first, given those before it: f64 (len(tokens) - 1,).
        Raises what `rows` raises.
        """
        ids = self._ids(tokens)
        found: list[float] = []
        with self._sequence() as sequence:
            for first in range(0, len(ids) - 1, CHUNK):
                targets = ids[first + 1 : first + CHUNK + 1]
                for row in self._step(SequenceWork(sequence, ids[first : first + len(targets)], targets=targets)):
                    assert row.target_logit is not None, "the row is scored"
                    found.append(row.target_logit - row.log_sum_exp)
        return np.array(found, np.float64)

    def read(self, name: str) -> np.ndarray:
        """An intermediate of the last step, such as "blk.3.attn_norm" (token slots, ...).

        Raises ValueError without keep=True or before a step, KeyError, which lists the names, for an unknown one.
        """
        self._reload_if_lost()
        return self.runner.executor.read(name)

    def timings(self) -> list[tuple[Dispatch, float]]:
        """Each dispatch of the last step with its seconds. Raises ValueError without a device, without timestamps=True
        or before a step.
        """
        self._reload_if_lost()
        return self.runner.executor.timings()

    def run_layer(self, layer: int, x: np.ndarray) -> np.ndarray:
        """Run one block on hidden states x (T, width) f32 at positions 0 to T-1, with an empty cache -> (T, width) f32.

        Raises ValueError for a layer that does not exist, or x of another width or dtype.
        """
        self._reload_if_lost()
        x = self._layer_input(layer, x)
        tokens, width = x.shape
        layers = self.model.layers
        assert layers is not None, "the model is in one place"
        alone = _LayerAlone(layers.blocks[layer], layers, layer, width)
        pages = -(-tokens // PAGE_SIZE)
        step = StepInputs(
            np.zeros(tokens, np.int32),
            np.arange(tokens, dtype=np.int32),
            np.zeros(tokens, np.int32),
            [PageTable(np.arange(pages, dtype=np.int32)[None, :])],
            NO_ROWS,
        )
        arena = None if self.device is None else Arena(self.device, "device", 1 << 20)
        layout = CacheLayout.of(
            self.model.config,
            context_length=tokens,
            num_sequences=1,
            kind=self.runner.kv_type,
            step_tokens=tokens,
            page_size=PAGE_SIZE,
        )
        host = host_path()
        cache = CacheStorage(layout, [layer], arena, host.reads_halves)
        if self.device is None:
            executor = host.make_executor(alone, cache, True)
        else:
            executor = DeviceExecutor(self.device, alone, cache, table_shape=(1, pages), max_tokens=tokens, keep=True)
        executor.run(step, inputs={"layer_input": np.ascontiguousarray(x)})
        return executor.read(alone.output_name)[:tokens]

    def _layer_input(self, layer: int, x: np.ndarray) -> np.ndarray:
        """Check the arguments of `run_layer`. Raises ValueError."""
        config = self.model.config
        if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)) or not 0 <= layer < config.num_layers:
            raise ValueError(f"run_layer: layer is {brief(layer)}; it must be 0 ... {config.num_layers - 1}")
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise ValueError(
                f"run_layer: x is not an array ({error}); it must be float32 (T, {config.width})"
            ) from None
        if x.dtype != np.float32 or x.ndim != 2 or not len(x) or x.shape[1] != config.width:
            raise ValueError(
                f"run_layer: x is {x.dtype} {x.shape}; it must be float32 (T, {config.width}) with at least one row"
            )
        return x


@dataclass
class _LayerAlone:
    """A model of one block, whose input the caller gives. It computes no logits."""

    block: Callable[[Value, Caches], Value]
    whole: Model
    layer: int
    width: int
    output_name: str = ""

    def __call__(self, graph: Graph, caches: Caches, /) -> Value:
        with graph.scope(f"blk.{self.layer}"):
            y = self.block(graph.input("layer_input", (graph.num_tokens, self.width)), caches)
        self.output_name = y.name
        return y

    @property
    def output_norm(self) -> Norm:
        return self.whole.output_norm

    def logits(self, x: Value) -> Value:
        return self.whole.logits(x)
