"""What the engine and a runner hand each other. The engine knows a runner by this module alone, so tests can bring their own.

In one direction: `SequenceWork`, tokens to append to a sequence. In the other: `LogitsRow`, the logits after one of them.
"""

from dataclasses import dataclass
from typing import Protocol, Sequence

import numpy as np


@dataclass(frozen=True)
class SequenceWork:
    """Tokens that a step appends to one sequence, and how many of the last of them want a row of logits."""

    sequence_id: int
    tokens: Sequence[int]
    outputs: int = 0


class LogitsRow(Protocol):
    """Raw logits of one position. `ids` and `logits` hold at least the 128 largest, or the whole vocabulary where it is smaller.

    log_sum_exp: natural logarithm of the sum of exp(logit) over the whole vocabulary
    ids, logits: (n,) int32 and (n,) float32, by logit descending, ties by lower id
    """

    log_sum_exp: float
    ids: np.ndarray
    logits: np.ndarray

    def full(self) -> np.ndarray:
        """The whole row, (vocab,) float32; valid until the runner's next step."""
        ...


class Runner(Protocol):
    """Owns the model and its KV cache. Called on the engine's thread only.

    context_length: tokens that one sequence can hold; max_sequences: how many may be open at a time;
    prefill_chunk: tokens that one step takes best.
    """

    context_length: int
    vocab_size: int
    max_sequences: int
    prefill_chunk: int

    def open_sequence(self) -> int: ...

    def close_sequence(self, sequence_id: int) -> None: ...

    def truncate(self, sequence_id: int, length: int) -> None:
        """Forget all but the first `length` tokens."""
        ...

    def shift(self, sequence_id: int, keep: int, discard: int) -> None:
        """Forget the tokens [keep, keep + discard) and move the later ones down.

        Raises NotImplementedError, with nothing changed, where the model's cache cannot be moved.
        """
        ...

    def step(self, work: list[SequenceWork]) -> list[LogitsRow]:
        """Append every work's tokens; the rows asked for, in the order of `work`."""
        ...
