"""Rows of embeddings, rope positions and limits of a step, as arrays over all its tokens.

In: the step's `SequenceWork`s. Out: fields of `graph.step.StepInputs` for any range of its tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import RequestError
from .contract import SequenceWork
from .prompt import NUM_AXES, EmbeddingRow


def ids_to_run(work: SequenceWork) -> list[int]:
    """A token id for each cell; 0 for a row of embeddings, which replaces that token's."""
    return [0 if isinstance(cell, EmbeddingRow) else cell for cell in work.tokens]


@dataclass(frozen=True)
class StepRows:
    """Arrays over the n tokens of a step.

    positions: (n,) int32
    embedded_rows: (r,) int32, ascending indices of rows of embeddings; embeddings: f32 (r, width), those rows
    rope_positions: (n, 4) int32
    limits: (n,) int32, the last position that each token sees
    """

    positions: np.ndarray
    embedded_rows: np.ndarray
    embeddings: np.ndarray
    rope_positions: np.ndarray
    limits: np.ndarray

    @classmethod
    def of(cls, work: Sequence[SequenceWork], positions: np.ndarray) -> "StepRows | None":
        """Join the inputs of the step's works. Returns None if none has any."""
        if all(item.inputs is None for item in work):
            return None
        rows, embeddings = [], []
        limits = positions.copy()
        rope_positions = np.repeat(positions[:, None], NUM_AXES, axis=1)
        begin = 0
        for item in work:
            end = begin + len(item.tokens)
            if item.inputs is not None:
                if len(item.inputs.embedded_rows):
                    rows.append(begin + item.inputs.embedded_rows)
                    embeddings.append(item.inputs.embeddings)
                if item.inputs.rope_positions is not None:
                    rope_positions[begin:end] = item.inputs.rope_positions
                if item.inputs.limits is not None:
                    limits[begin:end] = item.inputs.limits
            begin = end
        if not rows:
            return cls(positions, np.zeros(0, np.int32), np.zeros((0, 0), np.float32), rope_positions, limits)
        return cls(positions, np.concatenate(rows), np.concatenate(embeddings), rope_positions, limits)

    def uncut(self, first: int, last: int, most: int) -> int:
        """The largest end, at most `last`, of a range that begins at `first` and does not cut rows that see each other.
        If there is none, the end of the rows at `first`. Raises RequestError if these are more than `most`.
        """
        end = last
        while end > first and self._is_cut(end):
            end -= 1
        if end > first:
            return end
        while self._is_cut(last):
            last += 1
        if last - first > most:
            raise RequestError(
                f"{last - first} rows of embeddings must run in one step, but a step holds at most {most} rows; open "
                f"the model with a larger max_part"
            )
        return last

    def _is_cut(self, end: int) -> bool:
        """Whether the token before `end` sees tokens from there on."""
        return end < len(self.positions) and bool(self.limits[end - 1] > self.positions[end - 1])

    def inputs(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Fields of `StepInputs` for the tokens first ... last - 1, without those that equal their defaults."""
        found = {}
        some = slice(*np.searchsorted(self.embedded_rows, (first, last)))
        if some.stop > some.start:
            found |= {"embedded_rows": self.embedded_rows[some] - first, "embeddings": self.embeddings[some]}
        positions = self.positions[first:last]
        if (self.rope_positions[first:last] != positions[:, None]).any():
            found["rope_positions"] = self.rope_positions[first:last]
        if (self.limits[first:last] > positions).any():
            found["limits"] = self.limits[first:last]
        return found
