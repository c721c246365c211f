"""Inputs and outputs of one step, the same for every executor."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from ..ops.top_k import CAPACITY

CANDIDATES = 128  # an output row has at least this many of its largest logits

# Shared, as most fields of most steps are empty.
NO_ROWS = np.zeros(0, np.int32)
NO_LOGITS = np.zeros(0, np.float32)
NO_EMBEDDINGS = np.zeros((0, 0), np.float32)
NO_ROPE_POSITIONS = np.zeros((0, 4), np.int32)

EMBEDDINGS = "embeddings"  # the graph input that `StepInputs.embeddings` fills

RowReader = Callable[[int], np.ndarray]  # number of a row -> all its logits, f32 (vocabulary,)


class PageTable:
    """Where the cache of one group of layers holds each sequence.

    rows: (S, P) int32, the physical page of each logical page. Entries of pages that no token of a step sees may be
    stale. versions: one per row, increased by each change, so that executors copy changed rows only.
    """

    def __init__(self, rows: np.ndarray):
        self.rows = rows
        self.versions = [0] * len(rows)

    @property
    def shape(self) -> tuple[int, int]:
        """(S, P)."""
        num_sequences, pages_per_sequence = self.rows.shape
        return num_sequences, pages_per_sequence

    def set(self, sequence: int, index: int, page: int) -> None:
        """Record the physical page of a sequence's logical page `index`."""
        self.rows[sequence, index] = page
        self.versions[sequence] += 1


@dataclass(frozen=True)
class StepInputs:
    """The tokens of one step, from any number of sequences.

    tokens, positions, sequences: (n,) int32; a sequence is a row of the page tables
    page_tables: one for each group of the cache's layout
    output_rows: (m,) int32, ascending indices into tokens whose logits are wanted
    scored_rows, targets: (s,) int32, ascending indices of which one logit is wanted, and that logit's token id
    with_candidates: also return the largest logits of scored rows
    hidden_rows: (h,) int32, ascending indices whose hidden states are wanted
    embedded_rows: (r,) int32, indices into tokens that are rows of embeddings; their token ids are not used
    embeddings: f32 (r, width), those rows
    rope_positions: (n, 4) int32, what each token turns by on four axes; empty if all turn by their positions
    limits: (n,) int32, the last position that each token sees; empty if all see up to their own
    """

    tokens: np.ndarray
    positions: np.ndarray
    sequences: np.ndarray
    page_tables: Sequence[PageTable]
    output_rows: np.ndarray
    scored_rows: np.ndarray = field(default_factory=lambda: NO_ROWS)
    targets: np.ndarray = field(default_factory=lambda: NO_ROWS)
    hidden_rows: np.ndarray = field(default_factory=lambda: NO_ROWS)
    with_candidates: bool = False
    embedded_rows: np.ndarray = field(default_factory=lambda: NO_ROWS)
    embeddings: np.ndarray = field(default_factory=lambda: NO_EMBEDDINGS)
    rope_positions: np.ndarray = field(default_factory=lambda: NO_ROPE_POSITIONS)
    limits: np.ndarray = field(default_factory=lambda: NO_ROWS)

    def arrays(self, names: Iterable[str], inputs: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        """The arrays for a graph's inputs `names`: the embeddings are the step's own, the others come from `inputs`."""
        given = {EMBEDDINGS: self.embeddings, **(inputs or {})}
        return {name: given[name] for name in names}


@dataclass(frozen=True)
class StepShape:
    """The sizes that a step is recorded for: token slots, output rows, scored rows and rows of hidden states.

    decode: each token belongs to a different sequence, so none reads what another one stores
    splits: workgroups that share the context of each head; 1 for short contexts
    longest: the largest number of positions that a token sees, rounded up by `ops.attention.counted_longest`; 0: few
    precision: of the layers' matrix products, one of `ops.matmul.PRECISIONS`
    with_candidates: scored rows also return their largest logits
    num_embedded: rows of embeddings. has_rope_positions, has_limits: the step gives these
    """

    num_tokens: int
    num_outputs: int
    decode: bool = False
    splits: int = 1
    precision: str = "float32"
    num_scored: int = 0
    with_candidates: bool = False
    num_hidden: int = 0
    num_embedded: int = 0
    has_rope_positions: bool = False
    has_limits: bool = False
    longest: int = 0


def _not_read() -> np.ndarray:
    raise ValueError("only rows named by `output_rows` can be read whole")


@dataclass(frozen=True)
class LogitsRow:
    """Raw logits of one position: a summary of the whole row, and its candidates.

    log_sum_exp: natural logarithm of the sum of exp(logit) over the whole vocabulary
    ids, logits: the candidates, (n,) int32 and (n,) float32, by logit descending, ties by lower id. At least the
    CANDIDATES largest, or the whole vocabulary if it is smaller; empty for a scored row without candidates
    full: returns the whole row, (vocab,) float32, until the next step is submitted; ValueError for a scored row
    target_logit: the target token's logit; None unless the row is scored
    """

    log_sum_exp: float
    ids: np.ndarray = field(default_factory=lambda: NO_ROWS)
    logits: np.ndarray = field(default_factory=lambda: NO_LOGITS)
    full: Callable[[], np.ndarray] = field(default=_not_read, repr=False)
    target_logit: float | None = None

    @property
    def is_scored(self) -> bool:
        """Whether it has the logit of a target."""
        return self.target_logit is not None


StepOutput = LogitsRow | np.ndarray  # an array is a hidden state, f32 (width,)


def step_outputs(
    step: StepInputs, results: Sequence[np.ndarray], full: RowReader, scored_full: RowReader
) -> list[StepOutput]:
    """Convert the results of `forward.build`'s graph: a LogitsRow for each output row, then for each scored row,
    then the hidden states.

    full, scored_full: read a whole row of logits; only called for rows that exist.
    """
    remaining = iter(results)
    outputs: list[StepOutput] = []
    if len(step.output_rows):
        outputs += _row_outputs(len(step.output_rows), next(remaining), remaining, full)
    if len(step.scored_rows):
        outputs += _scored_rows(step, next(remaining), remaining, scored_full)
    if len(step.hidden_rows):
        hidden = next(remaining)
        outputs += [hidden[m].copy() for m in range(len(step.hidden_rows))]
    return outputs


def _scored_rows(
    step: StepInputs, stats: np.ndarray, remaining: Iterator[np.ndarray], full: RowReader
) -> Iterator[LogitsRow]:
    num_rows = len(step.scored_rows)
    picked = next(remaining)
    rows = _row_outputs(num_rows, stats, remaining, full) if step.with_candidates else []
    for m in range(num_rows):
        row = LogitsRow(float(stats[m, 0]), target_logit=float(picked[m]))
        yield replace(row, ids=rows[m].ids, logits=rows[m].logits) if rows else row


def _row_outputs(num_rows: int, stats: np.ndarray, remaining: Iterator[np.ndarray], full: RowReader) -> list[LogitsRow]:
    """remaining: begins with the counts, ids and values of `ops.top_k`."""
    counts, ids, values = next(remaining), next(remaining), next(remaining)
    return [
        _row_output(float(stats[m, 0]), int(counts[m]), ids[m].copy(), values[m].copy(), partial(full, m))
        for m in range(num_rows)
    ]


def _row_output(
    log_sum_exp: float, count: int, ids: np.ndarray, values: np.ndarray, full: Callable[[], np.ndarray]
) -> LogitsRow:
    """One row of top_k's outputs. If there were more candidates than `CAPACITY`, they are taken from the whole row."""
    if count > CAPACITY:
        row = full()
        ids = np.flatnonzero(row >= np.partition(row, -CANDIDATES)[-CANDIDATES])
        values = row[ids]
    else:
        ids, values = ids[:count], values[:count]
    order = np.lexsort((ids, -values))
    return LogitsRow(log_sum_exp, ids[order].astype(np.int32), values[order], full)


def bucket(count: int, largest: int) -> int:
    """The smallest recorded size >= count (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128 ...), at most `largest`."""
    size = 1
    while size < count:
        size *= 2
    if size >= 32 and count <= size * 3 // 4:  # unused slots cost as much as used ones
        size = size * 3 // 4
    return min(size, largest)


def check_kept(keep: bool, has_run: bool) -> None:
    """Raises ValueError if an executor has no intermediates to read."""
    if not keep:
        raise ValueError("intermediates are not kept without keep=True")
    if not has_run:
        raise ValueError("there are no intermediates yet: run a step first")
