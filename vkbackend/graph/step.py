"""What goes into one step and what comes out, whichever executor runs it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..ops.top_k import CAPACITY

CANDIDATES = 128  # a row brings at least its so many largest logits


NO_ROWS, NO_LOGITS = np.zeros(0, np.int32), np.zeros(0, np.float32)  # shared: steps are many


@dataclass(frozen=True)
class StepInputs:
    """One step's tokens, of any number of sequences.

    tokens, positions, sequences: (n,) int32; sequences are rows of page_table
    page_table: (S, P) int32, physical page of each logical page
    output_rows: (m,) int32, indices into tokens whose logits are wanted, ascending
    scored_rows, targets: (s,) int32, likewise of those of which one logit each is wanted, and the token that it is of
    with_candidates: the largest logits of scored rows, too
    hidden_rows: (h,) int32, likewise of those whose hidden state is wanted
    """

    tokens: np.ndarray
    positions: np.ndarray
    sequences: np.ndarray
    page_table: np.ndarray
    output_rows: np.ndarray
    scored_rows: np.ndarray = field(default_factory=lambda: NO_ROWS)
    targets: np.ndarray = field(default_factory=lambda: NO_ROWS)
    hidden_rows: np.ndarray = field(default_factory=lambda: NO_ROWS)
    with_candidates: bool = False


@dataclass(frozen=True)
class StepShape:
    """What a recorded step can hold: token slots, output rows, scored rows (and whether with candidates), rows of
    hidden states.

    decode: every token is of a sequence of its own, so none needs what another one stores
    splits: groups that share the context of each head, where it is long
    precision: in which the layers' products are computed, one of `ops.matmul.PRECISIONS`
    """

    num_tokens: int
    num_outputs: int
    decode: bool = False
    splits: int = 1
    precision: str = "float32"
    num_scored: int = 0
    with_candidates: bool = False
    num_hidden: int = 0


@dataclass(frozen=True)
class RowOutput:
    """Logits of one output row: the log-sum-exp of the whole row and its largest entries, by logit descending, then id.

    `full()` reads the whole row, f32 (vocabulary,); it is valid until the next step.
    """

    log_sum_exp: float
    ids: np.ndarray
    logits: np.ndarray
    full: Callable[[], np.ndarray] = field(repr=False)


def row_output(stats, count, ids, values, full) -> RowOutput:
    """One row of top_k's outputs -> RowOutput. Where there were more candidates than places, the row itself is read."""
    log_sum_exp = float(stats[0])
    if count > CAPACITY:
        row = full()
        ids = np.flatnonzero(row >= np.partition(row, -CANDIDATES)[-CANDIDATES])
        values = row[ids]
    else:
        ids, values = ids[:count], values[:count]
    order = np.lexsort((ids, -values))
    return RowOutput(log_sum_exp, ids[order].astype(np.int32), values[order], full)


@dataclass(frozen=True)
class ScoredRow:
    """What is read of a row that nobody samples from: the log-sum-exp, the target's logit, and the largest entries
    where they were wanted.
    """

    log_sum_exp: float
    target_logit: float
    ids: np.ndarray = field(default_factory=lambda: NO_ROWS)
    logits: np.ndarray = field(default_factory=lambda: NO_LOGITS)


def step_outputs(
    step: StepInputs,
    results: list[np.ndarray],
    full: Callable[[int], np.ndarray],
    scored_full: Callable[[int], np.ndarray],
) -> list:
    """The results of `forward.build` -> a RowOutput for each output row, a ScoredRow for each scored one, the hidden
    states f32 (width,).

    full, scored_full: read a whole row of logits.
    """
    left, found = list(results), []
    if len(step.output_rows):
        stats, counts, ids, values = (left.pop(0) for _ in range(4))
        found += [
            row_output(stats[m], counts[m], ids[m].copy(), values[m].copy(), partial(full, m))
            for m in range(len(step.output_rows))
        ]
    if len(step.scored_rows):
        stats, picked = left.pop(0), left.pop(0)
        counts, ids, values = (left.pop(0) for _ in range(3)) if step.with_candidates else (None, None, None)
        for m in range(len(step.scored_rows)):
            row = (
                row_output(stats[m], counts[m], ids[m].copy(), values[m].copy(), partial(scored_full, m))
                if step.with_candidates
                else None
            )
            found.append(ScoredRow(float(stats[m, 0]), float(picked[m]), *((row.ids, row.logits) if row else ())))
    if len(step.hidden_rows):
        hidden = left.pop(0)
        found += [hidden[m].copy() for m in range(len(step.hidden_rows))]
    return found


def bucket(count: int, largest: int) -> int:
    """The smallest size >= count, at most `largest`: recorded steps come in sizes of 1, 2, 4, 8, 16, 24, 32, 48, 64,
    96, 128 ...
    """
    size = 1
    while size < count:
        size *= 2
    if size >= 32 and count <= size * 3 // 4:  # unused places cost as much as used ones
        size = size * 3 // 4
    return min(size, largest)


def check_kept(keep: bool, has_run: bool) -> None:
    """Raises ValueError where an executor has no intermediates to show."""
    if not keep:
        raise ValueError("made without keep=True: intermediates were not kept")
    if not has_run:
        raise ValueError("there are no intermediates yet: run a step first")
