"""What goes into one step and what comes out, whichever executor runs it."""

from dataclasses import dataclass

import numpy as np


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
class RowOutput:
    """Logits of one output row: log-sum-exp of the whole row and its largest entries, by logit descending, then id."""

    log_sum_exp: float
    ids: np.ndarray
    logits: np.ndarray


def bucket(count: int, largest: int) -> int:
    """The smallest power of two >= count, at most `largest`: recorded steps come in these sizes."""
    size = 1
    while size < count:
        size *= 2
    return min(size, largest)
