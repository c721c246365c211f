"""The contract between the engine and a runner. The engine uses a runner through this module only, so tests can
substitute their own.

In: `SequenceWork`, tokens to append to a sequence. Out: `StepOutput`s, the rows of logits and hidden states that
these tokens produced.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..graph.step import StepOutput
from .prefix_cache import Prefix
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
        """Number of rows that the step returns for this sequence: scored, logits and hidden states."""
        return len(self.targets) + self.outputs + self.hidden


@dataclass(frozen=True)
class PageCounts:
    """Pages of a runner's cache.

    free: without contents; known: with tokens of closed sequences, kept until room is needed; used: of open sequences
    """

    free: int
    known: int
    used: int


class Runner(Protocol):
    """Owns the model and its KV cache. Called on the engine's thread only, except for `page_counts`.

    context_length: maximum number of tokens in a sequence
    max_sequences: maximum number of open sequences
    prefill_chunk: the best number of tokens in a step; scored_chunk: maximum number of scored ones
    width: width of embeddings
    max_part: maximum number of rows in a part whose rows see each other
    """

    context_length: int
    vocab_size: int
    max_sequences: int
    prefill_chunk: int
    scored_chunk: int
    width: int
    max_part: int

    def open_sequence(self, prefix: Prefix) -> int:
        """Open a sequence, which starts with the longest cached part of `prefix` from which it can continue, and return
        its id.
        """
        ...

    def length(self, sequence_id: int) -> int:
        """The number of tokens in the sequence."""
        ...

    def num_known(self, prefix: Prefix, beyond: int = 0) -> int:
        """The minimum length of what a sequence opened now would start with. It may be 0 if that is not more than
        `beyond`.
        """
        ...

    def close_sequence(self, sequence_id: int, is_end: bool = True) -> None:
        """Close a sequence. Its tokens stay cached as long as there is room.

        is_end: others may continue at its end. False if it is opened again with another beginning.
        """
        ...

    def forget(self) -> None:
        """Drop what closed sequences left in the cache."""
        ...

    def has_room(self, growth: Mapping[int, int], prefix: Prefix | None = None, num_tokens: int = 0) -> bool:
        """Whether each sequence can grow by its number of tokens, together with a new sequence of num_tokens tokens
        that begins with `prefix`.
        """
        ...

    def page_counts(self) -> PageCounts:
        """The pages of the cache by their state. May be called on any thread; exact between steps only."""
        ...

    def submit(self, work: list[SequenceWork]) -> None:
        """Begin a step that appends the tokens of each work. Call `wait` before any other method."""
        ...

    def wait(self) -> list[StepOutput]:
        """The outputs of the submitted step, in the order of its work. A failed step of at most `prefill_chunk` tokens
        changes no sequence.
        """
        ...
