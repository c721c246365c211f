"""A model without weights: tests say which tokens it emits. Meets the contract of `vkbackend/engine/contract.py`.

    tokenizer = FakeTokenizer()
    runner = FakeRunner(tokenizer, replies=[["Hel", "lo", "!"], ["second ", "reply"]])
    engine = Engine(runner, tokenizer)

Each generation gets the next reply, the last one again and again; an end token follows it. A reply's pieces are
texts, bytes (for parts of a character), or token ids. `runner.next_token = function(tokens so far) -> id` takes full
control.
"""

import re
import threading
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np

from vkbackend.engine.kv_cache import CachedSequence, PagedCache
from vkbackend.graph.cache_layout import CacheLayout
from vkbackend.graph.step import LogitsRow


class FakeTokenizer:
    """A vocabulary that grows with use: 0 is <s>, 1 is </s>; text splits into words with the white space before
    them.
    """

    bos_id = 0
    adds_spaces = False

    def __init__(self, pieces=(), vocab_size=4096, adds_bos=False):
        self.vocab_size, self.adds_bos = vocab_size, adds_bos
        self.eos_ids = {1}
        self.pieces = [b"<s>", b"</s>"]
        self.ids = {piece: index for index, piece in enumerate(self.pieces)}
        for piece in pieces:
            self.id(piece)

    def id(self, piece) -> int:
        """The id of a piece (text or bytes), which joins the vocabulary if it is new; an id stays itself."""
        if isinstance(piece, int):
            return piece
        piece = piece.encode() if isinstance(piece, str) else piece
        if piece not in self.ids:
            assert len(self.pieces) < self.vocab_size, "the fake vocabulary is full"
            self.ids[piece] = len(self.pieces)
            self.pieces.append(piece)
        return self.ids[piece]

    def encode(self, text, add_special=True, parse_special=True) -> list[int]:
        ids = [self.id(word) for word in re.findall(r"\s*\S+|\s+$", text)]
        return self.with_special(ids) if add_special else ids

    def with_special(self, ids) -> list[int]:
        return [self.bos_id, *ids] if self.adds_bos else list(ids)

    def token_bytes(self, token_id) -> bytes:
        return self.pieces[token_id] if token_id < len(self.pieces) else b"<unused %d>" % token_id

    def decode(self, ids) -> bytes:
        return b"".join(self.token_bytes(token_id) for token_id in ids)

    def is_control(self, token_id) -> bool:
        return token_id < 2


def logits_row(logits, candidates=128) -> LogitsRow:
    """The LogitsRow of a whole row of logits, with its `candidates` largest. `full` is a Mock, which counts reads."""
    whole = np.asarray(logits, np.float32)
    order = np.argsort(-whole, kind="stable")[:candidates]
    top = float(whole.max()) if len(whole) else -np.inf
    with np.errstate(all="ignore"):
        rest = float(np.log(np.sum(np.exp(whole.astype(np.float64) - top))))
    log_sum_exp = top if top == np.inf else top + rest
    return LogitsRow(log_sum_exp, order.astype(np.int32), whole[order], Mock(return_value=whole))


def scored_row(logits, target, candidates) -> LogitsRow:
    """The LogitsRow of a position that is scored: with its target's logit, without `full`."""
    row = logits_row(logits, 128 if candidates else 0)
    return LogitsRow(row.log_sum_exp, row.ids, row.logits, target_logit=float(logits[target]))


class FakeRunner:
    """The real bookkeeping of pages over a cache of tokens, in place of keys and values: every step checks that what
    each of its sequences finds through its page table is what it stored, or what others stored after the same
    beginning.

    steps: the work of every step that ran. fail_with: an exception that the next step raises. gate: a semaphore that
    each step takes one from, where set; release it to let the engine go on step by step. num_pages: fewer than all
    sequences could fill. windows: of each layer with a window, whose pages are checked, too.
    """

    def __init__(
        self,
        tokenizer,
        replies=(("ok",),),
        context_length=4096,
        max_sequences=4,
        prefill_chunk=128,
        scored_chunk=128,
        page_size=8,
        num_pages=None,
        width=4,
        max_part=256,
        windows=(),
    ):
        self.tokenizer, self.vocab_size = tokenizer, tokenizer.vocab_size
        self.context_length, self.max_sequences, self.prefill_chunk, self.scored_chunk = (
            context_length,
            max_sequences,
            prefill_chunk,
            scored_chunk,
        )
        self.width, self.max_part = width, max_part
        pages = -(-context_length // page_size)
        sizes = {"num_layers": len(windows), "num_kv_heads": 1, "head_dim": 8}
        groups = CacheLayout.of(
            SimpleNamespace(**sizes, window_of=lambda layer: windows[layer]),
            context_length=context_length,
            num_sequences=max_sequences,
            kind="f32",
            step_tokens=max(prefill_chunk, max_part),
            page_size=page_size,
            num_pages=num_pages,
        ).groups
        self.pages = PagedCache(groups[0].num_pages, page_size, max_sequences, pages, groups[1:])
        # What lies in the cache of each group of layers: a number for each beginning of a text.
        self.stored = [np.full((group.num_pages, page_size), -1) for group in groups]
        self.replies = [list(reply) for reply in replies]
        self.sequences: dict[int, CachedSequence] = {}
        self.steps = []
        self.fail_with: Exception | None = None
        self.gate: threading.Semaphore | None = None
        self.next_token = None
        self.after_step = lambda: None
        self._left: dict[int, list[int] | None] = {}  # rest of each sequence's reply
        self._beginnings: dict[tuple[int, int], int] = {}  # (number of the tokens before, token) -> number
        self._num_opened = 0
        self._submitted = None

    @property
    def cached(self) -> dict[int, list[int]]:
        """Sequence id -> tokens, of the open ones."""
        return {key: sequence.tokens for key, sequence in self.sequences.items()}

    def open_sequence(self, prefix):
        assert self._submitted is None
        self._num_opened += 1
        self.sequences[self._num_opened], self._left[self._num_opened] = self.pages.open(prefix), None
        return self._num_opened

    def close_sequence(self, sequence_id, is_end=True):
        assert self._submitted is None, "a step that runs uses this sequence's pages"
        self.pages.close(self.sequences.pop(sequence_id), is_end)
        del self._left[sequence_id]

    def page_counts(self):
        return self.pages.counts()

    def forget(self):
        self.pages.forget()

    def length(self, sequence_id):
        return self.sequences[sequence_id].length

    def num_known(self, prefix, beyond=0):
        return self.pages.num_known(prefix, beyond)

    def has_room(self, growth, prefix=None, num_tokens=0):
        return self.pages.has_room([(self.sequences[key], more) for key, more in growth.items()], prefix, num_tokens)

    def submit(self, work):
        assert self._submitted is None
        assert work and len({item.sequence_id for item in work}) == len(work)
        lengths = [self.length(item.sequence_id) for item in work]
        try:
            for item in work:
                assert item.tokens and 0 <= item.outputs <= len(item.tokens) and len(item.targets) <= len(item.tokens)
                assert (
                    item.inputs is None
                    or item.inputs.limits is None
                    or item.inputs.limits.max() < self.length(item.sequence_id) + len(item.tokens)
                ), "a step ends inside of a whole part"
                sequence = self.sequences[item.sequence_id]
                self.pages.extend(sequence, item.tokens)
                self.pages.slide(sequence, sequence.length)
        except BaseException:
            self._undo(work, lengths)
            raise
        self._submitted = work, lengths

    def wait(self):
        (work, lengths), self._submitted = self._submitted, None
        if self.gate:
            assert self.gate.acquire(timeout=20), "the test let no step through"
        self.steps.append(work)
        if self.fail_with:
            exception, self.fail_with = self.fail_with, None
            self._undo(work, lengths)
            raise exception
        rows = []
        for item, length in zip(work, lengths):
            tokens = self._store(self.sequences[item.sequence_id], length)
            for at, target in enumerate(item.targets, length + 1):
                rows.append(scored_row(self.row(self._next(item.sequence_id, at)), target, item.candidates))
            for at in range(len(tokens) - item.outputs + 1, len(tokens) + 1):
                rows.append(logits_row(self.row(self._next(item.sequence_id, at))))
            if item.hidden:
                rows.append(np.array([len(tokens), *tokens[-3:]], np.float32))
        for item in work:
            self.pages.commit(self.sequences[item.sequence_id])
        self.after_step()
        return rows

    def step(self, work):
        self.submit(work)
        return self.wait()

    def _undo(self, work, lengths):
        for item, length in zip(work, lengths):
            self.pages.truncate(self.sequences[item.sequence_id], length)

    def _store(self, sequence, first):
        """Write what follows token number `first` through the page tables, and check all that it sees before."""
        size, number = self.pages.page_size, 0
        windows = [0, *(pool.window for pool in self.pages.windows.pools)]
        for index, token in enumerate(sequence.tokens):
            number = self._beginnings.setdefault((number, token), len(self._beginnings) + 1)
            for window, table, stored in zip(windows, self.pages.tables, self.stored):
                if window and index <= first - window:
                    continue
                place = table.rows[sequence.slot, index // size], index % size
                if index >= first:
                    stored[place] = number
                assert stored[place] == number, f"token {index} of slot {sequence.slot} is not where the table says"
        return sequence.tokens

    def row(self, token_id):
        """A whole row in which one token leads by far and the others fall with their id."""
        logits = np.linspace(2.0, 0.0, self.vocab_size, dtype=np.float32)
        logits[token_id] = 30.0
        return logits

    def _next(self, sequence_id, length):
        if self.next_token:
            return self.next_token(self.sequences[sequence_id].tokens[:length])
        if self._left[sequence_id] is None:
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            self._left[sequence_id] = [self.tokenizer.id(piece) for piece in reply]
        left = self._left[sequence_id]
        return left.pop(0) if left else min(self.tokenizer.eos_ids)
