"""Runs steps of a model over many sequences, and owns the pages of their KV cache.

In: `SequenceWork`s. Out: `StepOutput`s. Only the engine's thread calls it.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from .. import settings
from ..cpu.executor import host_path
from ..device.buffers import Arena
from ..device.host_memory import available_host_memory
from ..errors import RequestError
from ..graph.cache import CacheStorage
from ..graph.cache_layout import DTYPES, CacheLayout, fitting_kind
from ..graph.executor import TUNED_AT, DeviceExecutor
from ..graph.host_executor import HostExecutor
from ..graph.parts import LoadedPart
from ..graph.scratch import StepLimits, scratch_bytes
from ..graph.split_executor import SplitExecutor
from ..graph.step import NO_ROWS, LogitsRow, StepInputs, StepOutput
from ..loading import LoadedLayers
from .cache_room import CacheRoom, fitting_layout, log_fewer_pages
from .contract import PageCounts, SequenceWork
from .kv_cache import CachedSequence, PagedCache
from .prefix_cache import Prefix
from .prompt import token_ids
from .step_rows import StepRows, ids_to_run

PAGE_SIZE = 32
PREFILL_CHUNK = 128
MAX_OUTPUTS = 32
SHORTEST = np.float32(1e-12)  # shorter states are not scaled to unit length
ROW_KINDS = ("output_rows", "scored_rows", "hidden_rows")  # in the order of `graph.step.step_outputs`
SCORED_BYTES = 64 << 20  # size limit of the logits scored at once: half of what every device can bind

Executor = HostExecutor | DeviceExecutor | SplitExecutor

log = logging.getLogger(__name__)


class ModelRunner:
    """A loaded model with a cache for `max_sequences` sequences of `context_length` tokens each.

    kv_type: "f16", "f32" or "q8_0"
    num_pages: pages of the cache; None takes as many as all sequences need, or as many as fit, but at least those of
        one sequence
    layout: of the cache, if it is known what fits; num_pages is not used then
    max_part: the most rows of embeddings that see each other, if more than a chunk; `max_part` is then the larger one
    num_threads: of the CPU path on ggml; 0 means automatic
    keep, timestamps, skip_barrier, tuned_at: as in `DeviceExecutor`

    Raises OutOfMemory if the cache does not fit, RequestError for an unknown kv_type.
    """

    def __init__(
        self,
        model: LoadedLayers,
        *,
        context_length: int = 4096,
        max_sequences: int = 1,
        kv_type: str = "f16",
        prefill_chunk: int = PREFILL_CHUNK,
        max_part: int = 0,
        num_pages: int | None = None,
        layout: CacheLayout | None = None,
        num_threads: int = 0,
        keep: bool = False,
        timestamps: bool = False,
        skip_barrier: int | None = None,
        tuned_at: int = TUNED_AT,
    ):
        if kv_type not in DTYPES:
            raise RequestError(f"OLLAMA_KV_CACHE_TYPE={kv_type} is not known; there are: {', '.join(DTYPES)}")
        config = model.config
        context_length = config.limited(context_length)
        kv_type = fitting_kind(kv_type, config.head_dim)
        self.model = model
        self.kv_type = kv_type
        self.prefill_chunk = prefill_chunk
        self.max_sequences = max_sequences
        self.max_part = max(prefill_chunk, max_sequences, max_part)
        self.context_length = context_length
        self.vocab_size = config.vocab_size
        self.width = config.width
        self.scored_chunk = rows_at_once(self.vocab_size)
        self.limits = step_limits(config.vocab_size, context_length, max_sequences, self.max_part)
        if layout is None:
            layout = self._layout(num_pages)
        pages = layout.groups[0].pages_per_sequence
        self.pages = PagedCache(layout.num_pages, PAGE_SIZE, max_sequences, pages, layout.groups[1:])
        self.sequences: dict[int, CachedSequence] = {}
        self._next_id = 0
        self._submitted: list[SequenceWork] = []
        # Outputs of the finished parts of the submitted step, by their place among its outputs.
        self._found: dict[int, StepOutput] = {}
        self._most_rows = {
            "output_rows": self.limits.max_outputs,
            "scored_rows": self.scored_chunk,
            "hidden_rows": max_sequences,
        }  # in one part of a step
        self._places: list[int] = []  # of the outputs of the part that is running
        self.storage, self.executor = _make_executor(
            model,
            layout,
            skip_barrier,
            num_threads,
            table_shape=(max_sequences, pages),
            max_tokens=self.max_part,
            max_outputs=self._most_rows["output_rows"],
            max_scored=self._most_rows["scored_rows"],
            keep=keep,
            timestamps=timestamps,
            tuned_at=tuned_at,
        )

    def _layout(self, num_pages: int | None) -> CacheLayout:
        """The cache's layout: with `num_pages` pages, or with as many as all sequences need and the device holds."""
        layout = CacheLayout.of(
            self.model.config,
            context_length=self.context_length,
            num_sequences=self.max_sequences,
            kind=self.kv_type,
            step_tokens=self.max_part,
            page_size=PAGE_SIZE,
            num_pages=num_pages,
        )
        return _fitting(self.model, layout, self.limits) if num_pages is None else layout

    @property
    def num_bytes(self) -> int:
        """Size of the weights and the cache in bytes."""
        return self.model.num_bytes + self.storage.num_bytes

    def release(self) -> None:
        """Drop weights, cache and recorded steps. The runner cannot be used afterwards."""
        del self.model, self.storage, self.executor

    def open_sequence(self, prefix: Prefix | None = None) -> int:
        """Open a sequence and return its id.

        Without `prefix` it is empty and shares nothing. With `prefix` it shares pages with other sequences and starts
        with the longest cached part of it from which it can continue; `length` tells how many tokens that is. Raises
        OutOfMemory if max_sequences are open.
        """
        self._next_id += 1
        self.sequences[self._next_id] = self.pages.open(prefix)
        return self._next_id

    def num_known(self, prefix: Prefix, beyond: int = 0) -> int:
        """The minimum length of what a sequence opened with `prefix` would start with. It may be 0 if that is not more
        than `beyond`.
        """
        return self.pages.num_known(prefix, beyond)

    def close_sequence(self, sequence_id: int, is_end: bool = True) -> None:
        """Free the sequence's slot. Pages that it shared stay cached until their room is needed. is_end: others may
        continue at its end.
        """
        self.pages.close(self.sequences.pop(sequence_id), is_end)

    def page_counts(self) -> PageCounts:
        """The pages of the cache by their state. May be called on any thread."""
        return self.pages.counts()

    def forget(self) -> None:
        """Drop the cached pages of closed sequences."""
        self.pages.forget()

    def length(self, sequence_id: int) -> int:
        """The number of tokens in the sequence's cache."""
        return self.sequences[sequence_id].length

    def has_room(self, growth: Mapping[int, int], prefix: Prefix | None = None, num_tokens: int = 0) -> bool:
        """Whether each sequence can grow by its number of tokens, together with a new sequence of num_tokens tokens
        that begins with `prefix`.
        """
        return self.pages.has_room([(self.sequences[key], more) for key, more in growth.items()], prefix, num_tokens)

    def truncate(self, sequence_id: int, length: int) -> None:
        """Drop all but the first `length` tokens of a sequence. Raises ValueError if some of the dropped ones are in
        shared pages, or if a layer's window before `length` was freed.
        """
        self.pages.truncate(self.sequences[sequence_id], length)

    def step(self, work: list[SequenceWork]) -> list[StepOutput]:
        """Append the tokens of each work to its sequence; returns the outputs of all works, in order.

        A failed step changes no sequence, except that one of several parts may keep the tokens of the first parts if
        layers have windows. Raises OutOfMemory if a sequence would outgrow the context or no pages are
        left, RequestError for a token outside the vocabulary, DeviceError, DeviceLost.
        """
        self.submit(work)
        return self.wait()

    def submit(self, work: list[SequenceWork]) -> None:
        """Begin a step; call `wait` before any other method. Raises what `step` raises."""
        for item in work:
            bad = [token for token in (*token_ids(item.tokens), *item.targets) if not 0 <= token < self.vocab_size]
            if bad:
                raise RequestError(f"token {bad[0]} is outside of the vocabulary of {self.vocab_size}")
        self._submitted = work
        lengths = [self.length(item.sequence_id) for item in work]
        with self._undone_on_failure(lengths):
            for item in work:
                self.pages.extend(self.sequences[item.sequence_id], item.tokens)
            self._submit(work, lengths)

    def wait(self) -> list[StepOutput]:
        """The outputs of the submitted step. Raises what `step` raises."""
        work = self._submitted
        lengths = [self.length(item.sequence_id) - len(item.tokens) for item in work]
        with self._undone_on_failure(lengths):
            self._found.update(zip(self._places, self.executor.wait()))
        found = [self._readable(self._found[place]) for place in range(len(self._found))]
        self._submitted = []
        self._found = {}
        for item in work:
            self.pages.commit(self.sequences[item.sequence_id])
        return found

    def _readable(self, output: StepOutput) -> StepOutput:
        """A hidden state without zeros at its end, of unit length if the model's embeddings are; others as they are."""
        if isinstance(output, LogitsRow):
            return output
        state = output[: self.model.config.hidden_size]
        return state / max(np.linalg.norm(state), SHORTEST) if self.model.config.unit_embeddings else state

    @contextmanager
    def _undone_on_failure(self, lengths: list[int]) -> Iterator[None]:
        """Truncate the submitted sequences to `lengths` if the body fails."""
        try:
            yield
        except BaseException:
            for item, length in zip(self._submitted, lengths):
                sequence = self.sequences[item.sequence_id]
                self.pages.undo(sequence, min(length, sequence.length))
            self._submitted = []
            raise

    def _submit(self, work: list[SequenceWork], lengths: list[int]) -> None:
        """Run all parts of the step but the last, and submit that one. A part is at most what the executor takes."""
        tokens, positions, slots, targets, place = [], [], [], [], 0
        wanted = {kind: [] for kind in ROW_KINDS}  # of each (token, place among the outputs)
        for item, length in zip(work, lengths):
            begin, count = len(tokens), len(item.tokens)
            tokens.extend(ids_to_run(item))
            positions.extend(range(length, length + count))
            slots.extend([self.sequences[item.sequence_id].slot] * count)
            targets.extend(item.targets)
            for kind, first, count in (
                ("scored_rows", begin, len(item.targets)),
                ("output_rows", len(tokens) - item.outputs, item.outputs),
                ("hidden_rows", len(tokens) - 1, item.hidden),
            ):
                if count:
                    wanted[kind].extend(zip(range(first, first + count), range(place, place + count)))
                    place += count
        tokens, positions, slots, targets = (
            np.array(values, np.int32) for values in (tokens, positions, slots, targets)
        )
        wanted = {kind: np.array(pairs, np.int32) for kind, pairs in wanted.items() if pairs}
        candidates = any(item.candidates for item in work)
        embedded = StepRows.of(work, positions)
        self._found = {}
        first = num_targets = 0
        chunk = max(self.prefill_chunk, self.max_sequences)
        while True:
            last = min(first + chunk, len(tokens))
            for kind, pairs in wanted.items():
                here = pairs[(pairs[:, 0] >= first) & (pairs[:, 0] < last), 0]
                if len(here) > self._most_rows[kind]:
                    last = int(here[self._most_rows[kind]])  # the other rows are left for the next part
            if embedded is not None:
                last = embedded.uncut(first, last, self.max_part)
            if len(self.pages.tables) > 1:
                self._slide(work, lengths, first, last)
            part = {kind: pairs[(pairs[:, 0] >= first) & (pairs[:, 0] < last)] for kind, pairs in wanted.items()}
            rows = {kind: pairs[:, 0] - first for kind, pairs in part.items()}
            next_target = num_targets + len(rows.get("scored_rows", ()))
            self._places = [place for kind in ROW_KINDS if kind in part for place in part[kind][:, 1].tolist()]
            self.executor.submit(
                StepInputs(
                    tokens[first:last],
                    positions[first:last],
                    slots[first:last],
                    self.pages.tables,
                    **({"output_rows": NO_ROWS} | rows),
                    targets=targets[num_targets:next_target],
                    with_candidates=candidates and next_target > num_targets,
                    **(embedded.inputs(first, last) if embedded is not None else {}),
                )
            )
            if last == len(tokens):
                return
            # The next part overwrites what full() reads.
            self._found.update(zip(self._places, map(_frozen, self.executor.wait())))
            first, num_targets = last, next_target

    def _slide(self, work: list[SequenceWork], lengths: list[int], first: int, last: int) -> None:
        """Move the windows of sequences on for the step's tokens first ... last - 1."""
        begin = 0
        for item, length in zip(work, lengths):
            end = begin + len(item.tokens)
            if begin < last and first < end:
                self.pages.slide(self.sequences[item.sequence_id], length + min(last, end) - begin)
            begin = end


def rows_at_once(vocab_size: int) -> int:
    """The number of positions that one part of a step can score."""
    return min(max(SCORED_BYTES // (4 * vocab_size), 1), PREFILL_CHUNK)


def _frozen(output: StepOutput) -> StepOutput:
    """Read the whole row of logits now, so that `full` stays valid after the next part."""
    if not isinstance(output, LogitsRow) or output.is_scored:
        return output
    whole = output.full()
    return replace(output, full=lambda: whole)


def _make_executor(
    model: LoadedLayers, layout: CacheLayout, skip_barrier: int | None, num_threads: int, **sizes: Any
) -> tuple[CacheStorage | SplitExecutor, Executor]:
    """The cache's storage and what runs steps. sizes: further arguments of `DeviceExecutor`."""
    config = model.config
    host = host_path(num_threads)
    if model.parts:
        split = SplitExecutor(model.parts, config, layout, host, **sizes)
        return split, split
    assert model.layers is not None, "a model that is not split has its layers"
    arena = None if model.device is None else Arena(model.device, "device")
    storage = CacheStorage(layout, range(config.num_layers), arena, host.reads_halves)
    if model.device is None:
        return storage, host.make_executor(model.layers, storage, sizes["keep"])
    return storage, DeviceExecutor(model.device, model.layers, storage, skip_barrier=skip_barrier, **sizes)


def step_limits(
    vocab_size: int, context_length: int, max_sequences: int, max_tokens: int = PREFILL_CHUNK
) -> StepLimits:
    """Sizes of the largest step of a runner. max_tokens: of one part of a step, if more than sequences."""
    return StepLimits(
        table_shape=(max_sequences, -(-context_length // PAGE_SIZE)),
        max_tokens=max(max_tokens, max_sequences),
        max_outputs=max(MAX_OUTPUTS, max_sequences),
        max_scored=rows_at_once(vocab_size),
    )


def _fitting(model: LoadedLayers, wanted: CacheLayout, limits: StepLimits) -> CacheLayout:
    """`wanted`, or fewer pages if a place of the loaded model has no room for more.

    Raises OutOfMemory if the pages of one sequence do not fit.
    """
    rooms = [_room(model, part, wanted, limits) for part in model.all_parts]
    layout = fitting_layout(wanted, rooms)
    log_fewer_pages(layout, wanted, rooms)
    return layout


def _room(model: LoadedLayers, part: LoadedPart, layout: CacheLayout, limits: StepLimits) -> CacheRoom:
    """The room that the loaded weights leave for a part's cache."""
    device = part.device
    if device is None:
        kernels = host_path().kernels
        scratch = scratch_bytes(part.layers, part.span, layout, limits, model.config, on_device=False, kernels=kernels)
        return CacheRoom("the CPU", part.span.blocks, available_host_memory() - scratch)
    scratch = scratch_bytes(
        part.layers, part.span, layout, limits, model.config, on_device=True, is_unified=device.is_unified
    )
    kept = scratch + settings.get("OLLAMA_GPU_OVERHEAD")
    wanted = sum(layout.layer_bytes(layer) for layer in part.span.blocks)
    free = device.free_memory(wanted + kept) - kept
    return CacheRoom(device.info.name, part.span.blocks, free, device.info.limits.max_storage_buffer_range)
