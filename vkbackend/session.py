"""A model opened for looking inside: logits and log-probabilities of a token list, one layer alone, any intermediate
by name, the time of each dispatch. For people who write or debug shaders; the server uses `engine` instead.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from .device.buffers import Arena
from .device.context import Device
from .engine.contract import SequenceWork
from .engine.runner import PAGE_SIZE, ModelRunner
from .errors import RequestError, brief
from .graph.cache import CacheStorage
from .graph.step import StepInputs
from .models.load import load
from .tokenizer import Tokenizer

CHUNK = 32  # tokens whose logits are read together


class Session:
    """path: a GGUF file. device: an open `Device`, or None for the numpy twins. kv_type: "f16", "f32" or "q8_0".

    keep: give every intermediate memory of its own, so that `read` finds it. timestamps: measure each dispatch.
    Raises what `models.load` and `ModelRunner` raise. If the device is lost, the call that lost it raises DeviceLost
    and the next one loads the model again.
    """

    def __init__(
        self,
        path,
        device=None,
        *,
        context_length: int = 2048,
        kv_type: str = "f16",
        keep: bool = False,
        timestamps: bool = False,
    ):
        if isinstance(context_length, bool) or not isinstance(context_length, (int, np.integer)) or context_length < 1:
            raise ValueError(f"context_length is {brief(context_length)}, must be a whole number of tokens from 1 on")
        if device is not None and not isinstance(device, Device):
            raise ValueError(
                f"device is {brief(device)}, must be an open device (vkbackend.open_device()), or None for the numpy "
                f"twins"
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
        """Load the model again if its device was lost: its weights and cache went with it."""
        if self.device is None:
            return
        self.device.reopen_if_lost()
        if self.device.generation != self._generation:
            del self.model, self.runner  # makes room for the new ones
            self._load()

    def rows(self, tokens):
        """Yield, for each token, the `LogitsRow` of what may follow it. Rows are valid until the next is asked for,
        and until another call of this session runs a step. Raises ValueError for what is not a list of token ids,
        RequestError for ids outside of the vocabulary.
        """
        return self._rows(self._ids(tokens))

    def _rows(self, ids: list[int]):
        with self._sequence() as sequence:
            for first in range(0, len(ids), CHUNK):
                if sequence not in self.runner.sequences:
                    raise ValueError("rows: another call of this session ran meanwhile; ask for the rows again")
                chunk = ids[first : first + CHUNK]
                yield from self.runner.step([SequenceWork(sequence, chunk, len(chunk))])

    @contextmanager
    def _sequence(self):
        """The id of an open sequence. A session holds one: rows that were not read to the end give way."""
        self._reload_if_lost()
        for left in list(self.runner.sequences):
            self.runner.close_sequence(left)
        sequence = self.runner.open_sequence()
        try:
            yield sequence
        finally:
            if sequence in self.runner.sequences:
                self.runner.close_sequence(sequence)

    def _ids(self, tokens) -> list[int]:
        """`tokens` as ids of the vocabulary. Raises ValueError, RequestError."""
        if isinstance(tokens, (str, bytes)):
            raise ValueError(
                f"tokens is {type(tokens).__name__}, must be a list of token ids: session.tokenizer.encode(text) "
                f"makes them"
            )
        try:
            ids = list(tokens)
        except TypeError:
            raise ValueError(f"tokens is {type(tokens).__name__}, must be a list of token ids") from None
        for at, token in enumerate(ids):
            if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
                raise ValueError(
                    f"tokens[{at}] is {brief(token)} ({type(token).__name__}), must be a token id, a whole number"
                )
            if not 0 <= token < self.runner.vocab_size:
                raise RequestError(
                    f"tokens[{at}] is {brief(token)}, which is outside of the vocabulary of {self.runner.vocab_size}"
                )
        return [int(token) for token in ids]

    def logits(self, tokens) -> np.ndarray:
        """Raw logits after each token, f32 (len(tokens), vocabulary). Raises what `rows` raises."""
        found = [row.full() for row in self.rows(tokens)]
        return np.stack(found) if found else np.zeros((0, self.runner.vocab_size), np.float32)

    def logprobs(self, tokens) -> np.ndarray:
        """Natural log-probability of each token after the first, given those before it: f64 (len(tokens) - 1,).
        Raises what `rows` raises.
        """
        ids, found = self._ids(tokens), []
        with self._sequence() as sequence:
            for first in range(0, len(ids) - 1, CHUNK):
                targets = ids[first + 1 : first + CHUNK + 1]
                found += self.runner.step([SequenceWork(sequence, ids[first : first + len(targets)], targets=targets)])
        return np.array([row.target_logit - row.log_sum_exp for row in found], np.float64)

    def read(self, name: str) -> np.ndarray:
        """An intermediate of the last step, such as "blk.3.attn_norm" (token slots, ...). Needs keep=True and a step
        before it, else ValueError; KeyError lists the names.
        """
        self._reload_if_lost()
        return self.runner.executor.read(name)

    def timings(self) -> list:
        """(Dispatch, seconds) of the last step. Raises ValueError without a device, without timestamps=True or
        before a step.
        """
        self._reload_if_lost()
        return self.runner.executor.timings()

    def run_layer(self, layer: int, x: np.ndarray) -> np.ndarray:
        """One block alone on hidden states x (T, width) f32 of the positions 0 ... T-1, with an empty cache -> (T,
        width) f32.

        Raises ValueError for a layer that is not there, or x of another width or dtype.
        """
        self._reload_if_lost()
        runner, config = self.runner, self.model.config
        if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)) or not 0 <= layer < config.num_layers:
            raise ValueError(f"run_layer: layer is {brief(layer)}, must be 0 ... {config.num_layers - 1}")
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise ValueError(f"run_layer: x is no array ({error}), must be float32 (T, {config.width})") from None
        if x.dtype != np.float32 or x.ndim != 2 or not len(x) or x.shape[1] != config.width:
            raise ValueError(
                f"run_layer: x is {x.dtype} {x.shape}, must be float32 (T, {config.width}) with at least one row"
            )
        tokens = len(x)
        alone = _LayerAlone(self.model.layers.blocks[layer], layer, x.shape[1])
        pages = -(-tokens // PAGE_SIZE)
        executor = type(runner.executor)
        shape = (config.num_layers, pages, PAGE_SIZE, config.num_kv_heads, config.head_dim)
        step = StepInputs(
            np.zeros(tokens, np.int32),
            np.arange(tokens, dtype=np.int32),
            np.zeros(tokens, np.int32),
            np.arange(pages, dtype=np.int32)[None, :],
            np.zeros(0, np.int32),
        )
        if self.device is None:
            run = executor(alone, CacheStorage(*shape, runner.kv_type), keep=True)
        else:
            run = executor(
                self.device,
                alone,
                CacheStorage(*shape, runner.kv_type, Arena(self.device, "device", 1 << 20)),
                num_sequences=1,
                pages_per_sequence=pages,
                max_tokens=tokens,
                keep=True,
            )
        run.run(step, inputs={"layer_input": np.ascontiguousarray(x)})
        return run.read(alone.output_name)[:tokens]


@dataclass
class _LayerAlone:
    """A model of one block, whose input the caller gives."""

    block: object
    layer: int
    width: int
    output_name: str = ""

    def __call__(self, graph, step):
        with graph.scope(f"blk.{self.layer}"):
            y = self.block(graph.input("layer_input", (graph.num_tokens, self.width)), step)
        self.output_name = y.name
        return y
