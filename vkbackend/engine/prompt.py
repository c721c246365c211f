"""Prompts of token ids and rows of embeddings, and what a step must know of them.

In: a list of token ids and `EmbeddingPart`s. Out: one cell for each position of the cache, and a `PartLayout`, which
knows where the parts are. A cell is a token id or an `EmbeddingRow`. Cells can be compared and hashed, so the prefix
cache finds pages by them.

Rope positions are what a cell rotates by. That of a token is its position in the cache plus `num_positions - len(rows)`
of each part before it, on all axes. That of a row is the rope position where its part begins plus the row's own.
"""

import hashlib
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ..errors import RequestError, brief

NUM_AXES = 4  # numbers of a rope position
MAX_ROPE_POSITION = 2**24  # kernels rotate exactly by positions below this


class EmbeddingRow(NamedTuple):
    """A row of an embedding part, as a cell. part: `EmbeddingPart.identity`."""

    part: bytes
    number: int


@dataclass(frozen=True, eq=False)
class EmbeddingPart:
    """Rows that enter the first layer in place of tokens' embeddings.

    rows: f32 (n, width). They are used as they are; the model's scale of token embeddings is not applied.
    digest: identifies `rows` in the prefix cache. Parts with equal digests must have equal rows.
    positions: int32 (n, 1 to 4), rope positions relative to where the part begins; None: 0, 1, 2 ... Axes that are not
    given are like the last one.
    num_positions: distance from where the part begins to the rope position of the next cell; None: n.
    is_whole: the rows see each other, not only those before them. They run in one step.

    Raises RequestError for arrays of other shapes, rows that are not finite, positions that are not integers or out
    of range, and a `num_positions` that is no integer.
    """

    rows: np.ndarray
    digest: bytes
    positions: np.ndarray | None = None
    num_positions: int | None = None
    is_whole: bool = False
    identity: bytes = field(init=False, repr=False)  # equal if keys and values, of rows and what follows, are equal

    def __post_init__(self) -> None:
        rows = _array(self.rows, "embeddings", np.float32, "fiu")
        if rows.ndim != 2 or 0 in rows.shape:
            raise RequestError(f"embeddings have shape {rows.shape}; they must be (n, width), a row for each position")
        if not np.isfinite(rows).all():
            raise RequestError("embeddings must be finite numbers")
        if not self.digest:
            raise RequestError("embeddings need a digest, which identifies them in the cache")
        if self.num_positions is not None:
            _check_num_positions(self.num_positions)
        positions = None if self.positions is None else _checked(self.positions, len(rows))
        # The dataclass is frozen, but for what is derived here.
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "positions", positions)
        num_axes = 0 if positions is None else positions.shape[1]
        sizes = (self.digest, len(rows), num_axes, self.advance, self.is_whole)
        identity = hashlib.blake2b(repr(sizes).encode(), digest_size=16)
        identity.update(b"" if positions is None else positions.tobytes())
        object.__setattr__(self, "identity", identity.digest())

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def advance(self) -> int:
        """Distance from where the part begins to the rope position of the next cell."""
        return len(self.rows) if self.num_positions is None else self.num_positions

    @property
    def is_plain(self) -> bool:
        """Whether its rows, and what follows, rotate by their positions in the cache, as tokens do."""
        return self.positions is None and self.advance == len(self)


def _check_num_positions(number: int) -> None:
    is_integer = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
    if not is_integer or not 1 <= number < MAX_ROPE_POSITION:
        raise RequestError(f"num_positions is {brief(number)}; it must be an integer from 1 to {MAX_ROPE_POSITION - 1}")


def _checked(positions: np.ndarray, num_rows: int) -> np.ndarray:
    positions = _array(positions, "positions of embeddings", np.int64, "iu")
    if positions.ndim != 2 or len(positions) != num_rows or not 1 <= positions.shape[1] <= NUM_AXES:
        raise RequestError(
            f"positions have shape {positions.shape}; {num_rows} rows of embeddings need ({num_rows}, 1) to "
            f"({num_rows}, {NUM_AXES})"
        )
    if positions.min() < 0 or positions.max() >= MAX_ROPE_POSITION:
        raise RequestError(f"positions of embeddings must be 0 to {MAX_ROPE_POSITION - 1}")
    return positions.astype(np.int32)


def _array(values: ArrayLike, name: str, dtype: DTypeLike, kinds: str) -> np.ndarray:
    """Convert `values` to a contiguous array of `dtype`. kinds: the kinds of dtypes (`np.dtype.kind`) to accept."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of unequal length
        raise RequestError(f"{name} must be an array") from None
    if array.dtype.kind not in kinds:
        raise RequestError(f"{name} are {array.dtype}; they must be {'real numbers' if 'f' in kinds else 'integers'}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which callers refuse
        return np.ascontiguousarray(array, dtype)


Cell: TypeAlias = int | EmbeddingRow
PromptItem: TypeAlias = int | EmbeddingPart


@dataclass(frozen=True)
class RowInputs:
    """What a step must know of the cells that it appends to a sequence, in addition to token ids.

    embedded_rows: (r,) int32, indices of the cells that are rows of embeddings
    embeddings: f32 (r, width), those rows
    rope_positions: int32 (n, 4), of each cell; None if these are the positions in the cache
    limits: int32 (n,), the last position that each cell sees; None if that is its own
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
        """The cell after the part's last row."""
        return self.begin + len(self.part)


def lay_out(prompt: Sequence[PromptItem]) -> tuple[list[Cell], "PartLayout"]:
    """Returns the cells of a prompt, one for each position of the cache, and where the parts are.

    Raises RequestError for an item that is neither an integer nor an `EmbeddingPart`.
    """
    cells: list[Cell] = []
    places = []
    for item in prompt:
        if isinstance(item, EmbeddingPart):
            places.append(PlacedPart(len(cells), item))
            cells.extend(EmbeddingRow(item.identity, index) for index in range(len(item)))
        else:
            cells.append(item if type(item) is int else _token_id(item, len(cells)))
    return cells, PartLayout(tuple(places))


def _token_id(item: object, position: int) -> int:
    if not isinstance(item, SupportsIndex) or isinstance(item, (bool, np.bool_, np.ndarray)):
        raise RequestError(
            f"the prompt has {brief(item)} at position {position}; it must hold token ids (integers) and EmbeddingParts"
        )
    return operator.index(item)


def token_ids(prompt: Sequence[Cell | PromptItem]) -> list[int]:
    """The tokens among the items or the cells of a prompt."""
    return [item for item in prompt if not isinstance(item, (EmbeddingRow, EmbeddingPart))]


@dataclass(frozen=True)
class PartLayout:
    """Where the embedding parts of a context are, in order."""

    places: tuple[PlacedPart, ...] = ()

    def num_uncut(self, first: int, count: int) -> int:
        """The largest number of cells from `first` on, at most `count`, that does not cut a whole part."""
        for place in self.places:
            if place.part.is_whole and place.begin < first + count < place.end:
                return max(place.begin - first, 0)
        return count

    def num_together(self, first: int) -> int:
        """The number of cells from `first` on that must run in one step: the rest of a whole part, or 1."""
        return next(
            (place.end - first for place in self.places if place.part.is_whole and place.begin <= first < place.end), 1
        )

    def widened(self, first: int, last: int) -> tuple[int, int]:
        """The range first ... last - 1, extended to the ends of the parts that it cuts, as (first, last)."""
        for place in self.places:
            if place.begin < last and first < place.end:
                first, last = min(first, place.begin), max(last, place.end)
        return first, last

    def without(self, first: int, last: int) -> "PartLayout":
        """The layout after the cells first ... last - 1 are removed. The range must not cut a part."""
        kept = [place for place in self.places if place.end <= first]
        kept += [PlacedPart(place.begin - (last - first), place.part) for place in self.places if place.begin >= last]
        return PartLayout(tuple(kept))

    def inputs(self, first: int, last: int) -> RowInputs | None:
        """The inputs of the cells first ... last - 1; None if token ids are all that a step must know of them."""
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
        """Rope positions of the cells first ... last - 1, int32 (last - first, 4)."""
        positions = np.repeat(np.arange(first, last, dtype=np.int32)[:, None], NUM_AXES, axis=1)
        moved = 0  # sum over the parts before
        for place in self.places:
            begin, end = max(place.begin, first), min(place.end, last)
            own = place.part.positions
            if begin < end and own is not None:
                axes = np.minimum(np.arange(NUM_AXES), own.shape[1] - 1)  # a missing axis is like the last
                positions[begin - first : end - first] = (
                    place.begin + moved + own[begin - place.begin : end - place.begin][:, axes]
                )
            more = place.part.advance - len(place.part)
            positions[max(place.end - first, 0) :] += more
            moved += more
        return positions
