"""Prompts of token ids and rows of embeddings, and what a step must know of them.

In: a list of token ids and `EmbeddingPart`s. Out: one cell for each position of the cache, and a `PartLayout` that
tells where the parts lie. A cell is a token id or an `EmbeddingRow`; cells are compared and hashed, so pages of the
cache are found by them.

Rope positions: a token's position in the cache, moved by `num_positions - len(rows)` of each part before it; within
a part, the part's first rope position plus the row's own. A token turns by the same number on all axes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from ..errors import RequestError

NUM_AXES = 4  # numbers of a rope position
MAX_ROPE_POSITION = 2**24  # kernels turn by positions below this without a loss of precision


class EmbeddingRow(NamedTuple):
    """A row of an embedding part, as a cell. part: `EmbeddingPart.identity`."""

    part: bytes
    number: int


@dataclass(frozen=True, eq=False)
class EmbeddingPart:
    """Rows that enter the first layer in place of tokens' embeddings.

    rows: f32 (n, width), as the first layer takes them: the model's scale of token embeddings is not applied.
    digest: stands for `rows` in the prefix cache; parts with equal digests must have equal rows.
    positions: int32 (n, 1 to 4), rope positions counted from the part's first; None: 0, 1, 2 ...
    num_positions: how far what follows moves on; None: n.
    is_whole: its rows see each other, so they run in one step and are kept or dropped together.
    Raises RequestError for arrays of other shapes and for positions out of range.
    """

    rows: np.ndarray
    digest: bytes
    positions: np.ndarray | None = None
    num_positions: int | None = None
    is_whole: bool = False
    identity: bytes = field(init=False, repr=False)  # equal where keys and values, here and after it, are equal

    def __post_init__(self) -> None:
        rows = np.ascontiguousarray(self.rows, np.float32)
        if rows.ndim != 2 or 0 in rows.shape:
            raise RequestError(
                f"embeddings have shape {rows.shape}; they must have a row for each position, (n, width)"
            )
        if not self.digest:
            raise RequestError("embeddings need a digest, by which the cache knows them")
        positions = None if self.positions is None else np.ascontiguousarray(self.positions, np.int32)
        if positions is not None:
            if positions.ndim != 2 or len(positions) != len(rows) or not 1 <= positions.shape[1] <= NUM_AXES:
                raise RequestError(
                    f"positions have shape {positions.shape}; {len(rows)} rows of embeddings need ({len(rows)}, 1) to "
                    f"({len(rows)}, {NUM_AXES})"
                )
            if positions.min() < 0 or positions.max() >= MAX_ROPE_POSITION:
                raise RequestError(f"positions of embeddings must lie in 0 to {MAX_ROPE_POSITION - 1}")
        if self.num_positions is not None and not 1 <= self.num_positions < MAX_ROPE_POSITION:
            raise RequestError(f"num_positions is {self.num_positions}; it must lie in 1 to {MAX_ROPE_POSITION - 1}")
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "positions", positions)
        shape = (len(rows), positions is not None and positions.shape[1], self.advance, self.is_whole)
        identity = hashlib.blake2b(repr((self.digest, shape)).encode(), digest_size=16)
        identity.update(b"" if positions is None else positions.tobytes())
        object.__setattr__(self, "identity", identity.digest())

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def advance(self) -> int:
        """How far what follows moves on."""
        return len(self.rows) if self.num_positions is None else self.num_positions

    @property
    def is_plain(self) -> bool:
        """Whether its rows turn as tokens would, and so does what follows."""
        return self.positions is None and self.advance == len(self)


Cell: TypeAlias = int | EmbeddingRow
PromptItem: TypeAlias = int | EmbeddingPart


@dataclass(frozen=True)
class RowInputs:
    """What a step must know of the cells that it appends to a sequence, beside token ids.

    embedded_rows: (r,) int32, which of the cells are rows of embeddings; embeddings: f32 (r, width), those rows.
    rope_positions: int32 (n, 4), of each cell; None where they are its positions in the cache.
    limits: int32 (n,), the last position of its sequence that each cell sees; None where that is its own.
    """

    embedded_rows: np.ndarray
    embeddings: np.ndarray
    rope_positions: np.ndarray | None
    limits: np.ndarray | None


@dataclass(frozen=True)
class PlacedPart:
    """A part whose rows are the cells begin ... end - 1."""

    begin: int
    part: EmbeddingPart

    @property
    def end(self) -> int:
        return self.begin + len(self.part)


def lay_out(prompt: Sequence[PromptItem]) -> tuple[list[Cell], "PartLayout"]:
    """One cell for each position of the cache, and where the parts lie."""
    cells: list[Cell] = []
    places = []
    for item in prompt:
        if isinstance(item, EmbeddingPart):
            places.append(PlacedPart(len(cells), item))
            cells.extend(EmbeddingRow(item.identity, index) for index in range(len(item)))
        else:
            cells.append(int(item))
    return cells, PartLayout(tuple(places))


def token_ids(prompt: Sequence[Cell | PromptItem]) -> list[int]:
    """The items of a prompt, or its cells, that are tokens."""
    return [item for item in prompt if not isinstance(item, (EmbeddingRow, EmbeddingPart))]


@dataclass(frozen=True)
class PartLayout:
    """Where the embedding parts of a context lie, first to last."""

    places: tuple[PlacedPart, ...] = ()

    def num_uncut(self, first: int, count: int) -> int:
        """The largest number of cells from `first` on, at most `count`, that does not end inside a whole part."""
        for place in self.places:
            if place.part.is_whole and place.begin < first + count < place.end:
                return max(place.begin - first, 0)
        return count

    def num_together(self, first: int) -> int:
        """Cells from `first` on that must run in one step: the rest of a whole part, or 1."""
        return next(
            (place.end - first for place in self.places if place.part.is_whole and place.begin <= first < place.end), 1
        )

    def widened(self, first: int, last: int) -> tuple[int, int]:
        """The range first ... last - 1, made larger so that it holds no piece of a part."""
        for place in self.places:
            if place.begin < last and first < place.end:
                first, last = min(first, place.begin), max(last, place.end)
        return first, last

    def without(self, first: int, last: int) -> "PartLayout":
        """The layout once the cells first ... last - 1 are gone; no part lies there in pieces."""
        kept = [place for place in self.places if place.end <= first]
        kept += [PlacedPart(place.begin - (last - first), place.part) for place in self.places if place.begin >= last]
        return PartLayout(tuple(kept))

    def inputs(self, first: int, last: int) -> RowInputs | None:
        """What a step must know of the cells first ... last - 1, beside token ids; None where that is nothing."""
        here = [place for place in self.places if place.begin < last and first < place.end]
        is_moved = any(not place.part.is_plain for place in self.places if place.begin < last)
        if not here and not is_moved:
            return None
        limits = np.arange(first, last, dtype=np.int32)
        rows, embeddings = [], []
        for place in here:
            begin, end = max(place.begin, first), min(place.end, last)
            rows.append(np.arange(begin - first, end - first, dtype=np.int32))
            embeddings.append(place.part.rows[begin - place.begin : end - place.begin])
            if place.part.is_whole:
                limits[begin - first : end - first] = place.end - 1
        return RowInputs(
            np.concatenate(rows) if rows else np.zeros(0, np.int32),
            np.concatenate(embeddings) if embeddings else np.zeros((0, 0), np.float32),
            self._rope_positions(first, last) if is_moved else None,
            limits if any(place.part.is_whole and place.end - 1 > max(place.begin, first) for place in here) else None,
        )

    def _rope_positions(self, first: int, last: int) -> np.ndarray:
        """int32 (last - first, 4)."""
        positions = np.repeat(np.arange(first, last, dtype=np.int32)[:, None], NUM_AXES, axis=1)
        moved = 0  # by the parts before
        for place in self.places:
            begin, end = max(place.begin, first), min(place.end, last)
            own = place.part.positions
            if begin < end and own is not None:
                axes = np.minimum(np.arange(NUM_AXES), own.shape[1] - 1)  # axes that are not given turn as the last
                positions[begin - first : end - first] = (
                    place.begin + moved + own[begin - place.begin : end - place.begin][:, axes]
                )
            more = place.part.advance - len(place.part)
            positions[max(place.end - first, 0) :] += more
            moved += more
        return positions
