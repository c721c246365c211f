"""What the engine and a runner hand each other. The engine knows a runner by this module alone, so tests can bring
their own.

In one direction: `SequenceWork`, tokens to append to a sequence. In the other: what follows them, as `LogitsRow`s,
`ScoredRow`s, hidden states.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .prompt import Cell, RowInputs


@dataclass(frozen=True)
class SequenceWork:
    """Tokens that a step appends to one sequence, and what is wanted of them, in this order:

    targets: a `ScoredRow` for each of the first of them, with the logit of the token named here; candidates: with
    its largest logits outputs: a row of logits for so many of the last of them hidden: the hidden state of the last
    one, f32 (width,)

    inputs: what the step must know of `tokens` where some are rows of embeddings, or come after such.
    """

    sequence_id: int
    tokens: Sequence[Cell]
    outputs: int = 0
    targets: Sequence[int] = ()
    candidates: bool = False
    hidden: bool = False
    inputs: RowInputs | None = None

    @property
    def num_outputs(self) -> int:
        return len(self.targets) + self.outputs + self.hidden


class LogitsRow(Protocol):
    """Raw logits of one position. `ids` and `logits` hold at least the 128 largest, or the whole vocabulary where it
    is smaller.

    log_sum_exp: natural logarithm of the sum of exp(logit) over the whole vocabulary
    ids, logits: (n,) int32 and (n,) float32, by logit descending, ties by lower id
    """

    log_sum_exp: float
    ids: np.ndarray
    logits: np.ndarray

    def full(self) -> np.ndarray:
        """The whole row, (vocab,) float32; valid until the runner's next step is submitted."""
        ...


class ScoredRow(Protocol):
    """What is read of a position that nobody samples from. ids and logits: as a LogitsRow's; empty unless candidates
    were asked for.
    """

    log_sum_exp: float
    target_logit: float
    ids: np.ndarray
    logits: np.ndarray


class Runner(Protocol):
    """Owns the model and its KV cache. Called on the engine's thread only.

    context_length: tokens that one sequence can hold; max_sequences: how many may be open at a time;
    prefill_chunk: tokens that one step takes best; scored_chunk: those of them that are scored.
    width: of embeddings; max_part: rows of the largest part whose rows see each other.
    """

    context_length: int
    vocab_size: int
    max_sequences: int
    prefill_chunk: int
    scored_chunk: int
    width: int
    max_part: int

    def open_sequence(self, tokens: Sequence[Cell]) -> int:
        """A new sequence, which holds as many of the first of `tokens` as the cache still knows, from whatever
        sequence.
        """
        ...

    def length(self, sequence_id: int) -> int:
        """Tokens that the sequence holds."""
        ...

    def num_known(self, tokens: Sequence[Cell]) -> int:
        """How many of the first of `tokens` a sequence opened now would hold at least."""
        ...

    def close_sequence(self, sequence_id: int) -> None:
        """Its tokens stay known as long as there is room."""
        ...

    def forget(self) -> None:
        """Forget what closed sequences held."""
        ...

    def has_room(self, growth: Mapping[int, int], beginning: Sequence[Cell] = (), num_tokens: int = 0) -> bool:
        """Whether each sequence could grow by so many tokens, beside a new one of num_tokens that begins with
        `beginning`.
        """
        ...

    def submit(self, work: list[SequenceWork]) -> None:
        """Begin a step that appends every work's tokens; `wait` comes before anything else is asked of the runner."""
        ...

    def wait(self) -> list[LogitsRow | ScoredRow | np.ndarray]:
        """What the step that was submitted was asked for, in the order of its work. Where it fails, no sequence has
        changed.
        """
        ...
