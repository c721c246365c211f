"""What goes into one step and what comes out, whichever executor runs it."""

from dataclasses import dataclass, field
from typing import Callable

import numpy as np

from ..ops.top_k import CAPACITY

CANDIDATES = 128  # a row brings at least its so many largest logits


@dataclass(frozen=True)
class StepInputs:
    """One step's tokens, of any number of sequences.

    tokens, positions, sequences: (n,) int32; sequences are rows of page_table
    page_table: (S, P) int32, physical page of each logical page
    output_rows: (m,) int32, indices into tokens whose logits are wanted, ascending
    """

    tokens: np.ndarray
    positions: np.ndarray
    sequences: np.ndarray
    page_table: np.ndarray
    output_rows: np.ndarray


@dataclass(frozen=True)
class StepShape:
    """What a recorded step can hold: token slots and output rows.

    decode: every token is of a sequence of its own, so none needs what another one stores
    splits: groups that share the context of each head, where it is long
    precision: in which the layers' products are computed, one of `ops.matmul.PRECISIONS`
    """

    num_tokens: int
    num_outputs: int
    decode: bool = False
    splits: int = 1
    precision: str = "float32"


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


def bucket(count: int, largest: int) -> int:
    """The smallest size >= count, at most `largest`: recorded steps come in sizes of 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128 ..."""
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
