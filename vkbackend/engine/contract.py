"""The contract between the engine and a runner. The engine uses a runner through this module only, so tests can
substitute their own.

In: `SequenceWork`, tokens to append to a sequence. Out: `StepOutput`s, the rows of logits and hidden states that
these tokens produced.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..graph.step import StepOutput
from .prompt import Cell, RowInputs


@dataclass(frozen=True)
class SequenceWork:
    """Tokens that a step appends to one sequence, and the outputs to return for them, in this order:

    targets: score the first len(targets) tokens: a `LogitsRow` for each, whose target is the token given here
    candidates: scored rows bring their largest logits, too
    outputs: the number of trailing tokens that get a `LogitsRow`
    hidden: return the hidden state of the last token, f32 (width,)
    inputs: rows of embeddings among `tokens`, and their positions; None if the step needs neither
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

    def wait(self) -> list[StepOutput]:
        """What the step that was submitted was asked for, in the order of its work. Where it fails, no sequence has
        changed.
        """
        ...
