"""Tokens of many sequences -> one step of a model -> rows of logits. Keeps the KV cache's pages.

In: `SequenceWork`s. Out: `graph.step.RowOutput`s (they are `LogitsRow`s). The engine's thread alone calls it.
"""

import numpy as np

from ..device.buffers import Arena
from ..errors import OutOfMemory, RequestError
from ..graph.cache import DTYPES, CacheStorage
from ..graph.executor import DeviceExecutor
from ..graph.numpy_executor import NumpyExecutor
from ..graph.step import RowOutput, StepInputs
from ..models import LoadedModel
from .kv_cache import CachedSequence, PagedCache
from .work import SequenceWork

PAGE_SIZE = 32
PREFILL_CHUNK = 128
MAX_OUTPUTS = 32


class ModelRunner:
    """A loaded model with a cache for `max_sequences` sequences of `context_length` tokens each.

    kv_type: "f16" or "f32". keep, timestamps: as in `DeviceExecutor`. Raises OutOfMemory where the cache does not fit.
    """

    def __init__(self, model: LoadedModel, *, context_length: int = 4096, max_sequences: int = 1, kv_type: str = "f16",
                 prefill_chunk: int = PREFILL_CHUNK, keep: bool = False, timestamps: bool = False, skip_barrier: int | None = None):
        if kv_type not in DTYPES:
            raise RequestError(f"OLLAMA_KV_CACHE_TYPE={kv_type} is not known; there are: {', '.join(DTYPES)}")
        config = model.config
        self.model, self.kv_type = model, kv_type
        self.prefill_chunk, self.max_sequences = prefill_chunk, max_sequences
        self.context_length, self.vocab_size = context_length, config.vocab_size
        pages = -(-context_length // PAGE_SIZE)
        self.pages = PagedCache(max_sequences * pages, PAGE_SIZE, max_sequences, pages)
        self.sequences: dict[int, CachedSequence] = {}
        self._next_id = 0
        shape = (config.num_layers, max_sequences * pages, PAGE_SIZE, config.num_kv_heads, config.head_dim)
        if model.device is None:
            self.storage = CacheStorage(*shape, kv_type)
            self.executor = NumpyExecutor(model.layers, self.storage, keep)
        else:
            self.storage = _device_cache(model.device, shape, kv_type)
            self.executor = DeviceExecutor(model.device, model.layers, self.storage, num_sequences=max_sequences, pages_per_sequence=pages,
                                           max_tokens=max(prefill_chunk, max_sequences), max_outputs=max(MAX_OUTPUTS, max_sequences),
                                           keep=keep, timestamps=timestamps, skip_barrier=skip_barrier)

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights and the cache."""
        return self.model.num_bytes + self.storage.num_bytes

    def release(self) -> None:
        """Let go of weights, cache and recorded steps; the runner is of no use afterwards."""
        self.model = self.storage = self.executor = None

    def open_sequence(self) -> int:
        """A new empty sequence. Raises OutOfMemory when max_sequences are open."""
        self._next_id += 1
        self.sequences[self._next_id] = self.pages.open()
        return self._next_id

    def close_sequence(self, sequence_id: int) -> None:
        self.pages.close(self.sequences.pop(sequence_id))

    def length(self, sequence_id: int) -> int:
        """Tokens in the sequence's cache."""
        return self.sequences[sequence_id].length

    def truncate(self, sequence_id: int, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.pages.truncate(self.sequences[sequence_id], length)

    def shift(self, sequence_id: int, keep: int, discard: int) -> None:
        """Raises NotImplementedError: keys are stored rotated to their positions. The caller runs the tokens again."""
        raise NotImplementedError("the cache stores keys rotated to their positions")

    def step(self, work: list[SequenceWork]) -> list[RowOutput]:
        """Append every work's tokens to its sequence; rows for the last `outputs` tokens of each, in order.

        Raises OutOfMemory (with no sequence changed) where one would outgrow the context, RequestError for a token outside of the vocabulary,
        DeviceError, DeviceLost.
        """
        for item in work:
            bad = [token for token in item.tokens if not 0 <= token < self.vocab_size]
            if bad:
                raise RequestError(f"token {bad[0]} is outside of the vocabulary of {self.vocab_size}")
        lengths = [self.sequences[item.sequence_id].length for item in work]
        try:
            for item in work:
                self.pages.extend(self.sequences[item.sequence_id], len(item.tokens))
        except OutOfMemory:
            self._restore(work, lengths)
            raise
        try:
            return self._run(work, lengths)
        except BaseException:
            self._restore(work, lengths)
            raise

    def _restore(self, work, lengths):
        for item, length in zip(work, lengths):
            self.pages.truncate(self.sequences[item.sequence_id], min(length, self.sequences[item.sequence_id].length))

    def _run(self, work, lengths) -> list[RowOutput]:
        tokens, positions, slots, wanted = [], [], [], []
        for item, length in zip(work, lengths):
            count = len(item.tokens)
            tokens.extend(item.tokens)
            positions.extend(range(length, length + count))
            slots.extend([self.sequences[item.sequence_id].slot] * count)
            wanted.extend(range(len(tokens) - item.outputs, len(tokens)))
        wanted = np.array(wanted, np.int32)
        rows: list[RowOutput] = []
        first = 0
        while first < len(tokens):
            last = min(first + self.executor_tokens, len(tokens))
            here = wanted[(wanted >= first) & (wanted < last)]
            if len(here) > MAX_OUTPUTS and len(here) > self.max_sequences:
                last = int(here[MAX_OUTPUTS])  # the rest of the rows in the next step
                here = here[:MAX_OUTPUTS]
            found = self.executor.run(StepInputs(
                np.array(tokens[first:last], np.int32), np.array(positions[first:last], np.int32), np.array(slots[first:last], np.int32),
                self.pages.table, here - first))
            if last < len(tokens):  # what full() would read is about to be overwritten
                found = [_frozen(row) for row in found]
            rows.extend(found)
            first = last
        return rows

    @property
    def executor_tokens(self) -> int:
        return max(self.prefill_chunk, self.max_sequences)


def _frozen(row: RowOutput) -> RowOutput:
    whole = row.full()
    return RowOutput(row.log_sum_exp, row.ids, row.logits, lambda: whole)


def _device_cache(device, shape, kv_type) -> CacheStorage:
    per_layer = 2 * int(np.prod(shape[1:])) * np.dtype(DTYPES[kv_type]).itemsize
    needed = per_layer * shape[0]
    free = device.free_memory(needed)
    hint = "use a smaller num_ctx (OLLAMA_CONTEXT_LENGTH), or fewer parallel sequences (OLLAMA_NUM_PARALLEL)"
    if needed > free:
        raise OutOfMemory(f"the KV cache needs {needed / 2**30:.2f} GiB; {device.info.name} has {free / 2**30:.2f} GiB free: {hint}")
    if per_layer // 2 > device.info.limits.max_storage_buffer_range:
        raise OutOfMemory(f"the KV cache of one layer needs {per_layer // 2} bytes; {device.info.name} binds at most "
                          f"{device.info.limits.max_storage_buffer_range}: {hint}")
    return CacheStorage(*shape, kv_type, Arena(device, "device"))
