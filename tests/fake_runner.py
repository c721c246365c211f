"""A model without weights: tests say which tokens it emits. Meets the contract of `vkbackend/engine/work.py`.

    tokenizer = FakeTokenizer()
    runner = FakeRunner(tokenizer, replies=[["Hel", "lo", "!"], ["second ", "reply"]])
    engine = Engine(runner, tokenizer)

Each generation gets the next reply, the last one again and again; an end token follows it. A reply's pieces are texts, bytes
(for parts of a character), or token ids. `runner.next_token = function(tokens so far) -> id` takes full control.
"""

import re
import threading

import numpy as np

from vkbackend.errors import OutOfMemory


class FakeTokenizer:
    """A vocabulary that grows with use: 0 is <s>, 1 is </s>; text splits into words with the white space before them."""

    bos_id = 0

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
        start = [self.bos_id] if self.adds_bos and add_special else []
        return start + [self.id(word) for word in re.findall(r"\s*\S+|\s+$", text)]

    def token_bytes(self, token_id) -> bytes:
        return self.pieces[token_id] if token_id < len(self.pieces) else b"<unused %d>" % token_id

    def decode(self, ids) -> bytes:
        return b"".join(self.token_bytes(token_id) for token_id in ids)

    def is_control(self, token_id) -> bool:
        return token_id < 2


class FakeRow:
    """A LogitsRow of a given whole row; brings its `candidates` largest logits and counts the reads of the rest."""

    def __init__(self, logits, candidates=128):
        self._full = np.asarray(logits, np.float32)
        order = np.argsort(-self._full, kind="stable")[:candidates]
        self.ids, self.logits = order.astype(np.int32), self._full[order]
        top = float(self._full.max()) if len(self._full) else -np.inf
        with np.errstate(all="ignore"):
            rest = float(np.log(np.sum(np.exp(self._full.astype(np.float64) - top))))
        self.log_sum_exp = top if top == np.inf else top + rest
        self.num_full_reads = 0

    def full(self):
        self.num_full_reads += 1
        return self._full


class FakeRunner:
    """Keeps the tokens of every sequence and checks what is asked of it.

    steps: the work of every step so far. fail_with: an exception that the next step raises. gate: a semaphore that each
    step takes one from, where set; release it to let the engine go on step by step. can_shift=False: a cache that cannot
    be moved (good for one reply, since a cut no longer tells a new one). max_cached: tokens of all sequences together.
    """

    def __init__(self, tokenizer, replies=(("ok",),), context_length=4096, max_sequences=4, prefill_chunk=128, can_shift=True,
                 max_cached=None):  # fmt: skip
        self.tokenizer, self.vocab_size = tokenizer, tokenizer.vocab_size
        self.context_length, self.max_sequences, self.prefill_chunk = context_length, max_sequences, prefill_chunk
        self.can_shift, self.max_cached = can_shift, max_cached
        self.replies = [list(reply) for reply in replies]
        self.cached: dict[int, list[int]] = {}  # sequence id -> tokens
        self.steps, self.shifts = [], []
        self.fail_with: Exception | None = None
        self.gate: threading.Semaphore | None = None
        self.next_token = None
        self._left: dict[int, list[int] | None] = {}  # rest of each sequence's reply
        self._num_opened = 0
        self._undoing = False  # the last step failed half-way

    def open_sequence(self):
        assert len(self.cached) < self.max_sequences, "more sequences opened than there are"
        self._num_opened += 1
        self.cached[self._num_opened], self._left[self._num_opened] = [], None
        return self._num_opened

    def close_sequence(self, sequence_id):
        del self.cached[sequence_id], self._left[sequence_id]

    def truncate(self, sequence_id, length):
        """A cut begins a new generation, except where an engine must cut in the middle of one."""
        assert 0 <= length <= len(self.cached[sequence_id])
        del self.cached[sequence_id][length:]
        if self.can_shift and not self._undoing:
            self._left[sequence_id] = None

    def shift(self, sequence_id, keep, discard):
        if not self.can_shift:
            raise NotImplementedError("this cache cannot be moved")
        tokens = self.cached[sequence_id]
        assert discard > 0 and keep + discard <= len(tokens)
        self.shifts.append((keep, discard))
        del tokens[keep : keep + discard]

    def step(self, work):
        if self.gate:
            assert self.gate.acquire(timeout=20), "the test let no step through"
        self.steps.append(work)
        if self.fail_with:
            exception, self.fail_with = self.fail_with, None
            raise exception
        assert work and len({item.sequence_id for item in work}) == len(work)
        rows = []
        for item in work:
            tokens = self.cached[item.sequence_id]
            assert item.tokens and 0 <= item.outputs <= len(item.tokens)
            assert len(tokens) + len(item.tokens) <= self.context_length, "the engine outgrew the context"
            tokens.extend(item.tokens)
            if self.max_cached is not None and sum(map(len, self.cached.values())) > self.max_cached:
                self._undoing = True
                raise OutOfMemory(f"the fake cache holds {self.max_cached} tokens")
            for length in range(len(tokens) - item.outputs + 1, len(tokens) + 1):
                rows.append(FakeRow(self.row(self._next(item.sequence_id, length))))
        self._undoing = False
        return rows

    def row(self, token_id):
        """A whole row in which one token leads by far and the others fall with their id."""
        logits = np.linspace(2.0, 0.0, self.vocab_size, dtype=np.float32)
        logits[token_id] = 30.0
        return logits

    def _next(self, sequence_id, length):
        if self.next_token:
            return self.next_token(self.cached[sequence_id][:length])
        if self._left[sequence_id] is None:
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            self._left[sequence_id] = [self.tokenizer.id(piece) for piece in reply]
        left = self._left[sequence_id]
        return left.pop(0) if left else min(self.tokenizer.eos_ids)
