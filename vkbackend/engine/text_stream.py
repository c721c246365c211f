"""Turns the bytes of tokens into pieces of whole characters, and cuts the text at stop strings.

A token is held back while the pending bytes end in the beginning of a stop string or in an incomplete character; then
all pending tokens leave as one piece, with their log-probabilities. A piece ends before bytes that are not valid UTF-8.
The log-probabilities of every token that no stop string cuts off are reported, in a piece without text if need be.
"""

from collections.abc import Sequence

from .request import Piece, ScoredToken


def find_stop(data: bytes, stops: Sequence[bytes]) -> bytes | None:
    """The first of `stops`, in the given order, that occurs in data. An empty stop string always occurs."""
    return next((stop for stop in stops if stop in data), None)


def ends_in_stop_prefix(data: bytes, stops: Sequence[bytes]) -> bool:
    """Whether data ends in the beginning of a stop string."""
    return any(_ends_in_beginning(data, stop) for stop in stops)


def _ends_in_beginning(data: bytes, stop: bytes) -> bool:
    """Compares only where the first byte of `stop` occurs: there may be many stop strings, as long as a request."""
    at = data.find(stop[:1], max(0, len(data) - len(stop))) if stop else -1
    while at >= 0:
        if stop.startswith(data[at:]):
            return True
        at = data.find(stop[:1], at + 1)
    return False


def cut_at_stop(pieces: Sequence[bytes], stop: bytes) -> tuple[list[bytes], bool]:
    """Returns (the pieces before the first `stop` in their joined bytes, whether the last of them was cut)."""
    remaining = b"".join(pieces).find(stop)
    if remaining < 0:
        return list(pieces), False
    kept = []
    for piece in pieces:
        if remaining == 0:
            return kept, False
        kept.append(piece[:remaining])
        if len(piece) > remaining:
            return kept, True
        remaining -= len(piece)
    return kept, False


def ends_inside_character(data: bytes) -> bool:
    """Whether data ends in an incomplete UTF-8 character."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:  # continuation byte
            continue
        length = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return back < length
    return False


def valid_prefix(data: bytes) -> str:
    """The text before the first byte that is not valid UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return data[: error.start].decode("utf-8")


class TextStream:
    """The text of one generation.

    stopped: whether a stop string occurred; `push` must not be called after that
    num_sent: number of tokens that left in pieces, without those that a stop string cut off entirely
    """

    def __init__(self, stops: Sequence[str] = ()):
        # A lone surrogate cannot occur in a text; encoded this way, it never matches.
        self._stops = [stop.encode("utf-8", "surrogatepass") for stop in stops]
        self._pieces: list[bytes] = []  # bytes of the pending tokens
        self._logprobs: list[ScoredToken | None] = []  # of the pending tokens
        self.num_sent = 0
        self.stopped = False

    def push(self, data: bytes, logprob: ScoredToken | None = None) -> Piece | None:
        """Add a token's bytes. Returns the piece that is ready now, or None."""
        self._pieces.append(data)
        self._logprobs.append(logprob)
        waiting = b"".join(self._pieces)
        stop = find_stop(waiting, self._stops)
        if stop is not None:
            self.stopped = True
            self._pieces, _ = cut_at_stop(self._pieces, stop)
            del self._logprobs[len(self._pieces) :]
            return self.flush()
        if ends_in_stop_prefix(waiting, self._stops) or ends_inside_character(waiting):
            return None
        return self.flush()

    def flush(self) -> Piece | None:
        """The pending tokens as a piece, at the end of the generation: part of a stop string is text, part of a
        character is not.
        """
        text = valid_prefix(b"".join(self._pieces))
        logprobs = [logprob for logprob in self._logprobs if logprob is not None]
        self.num_sent += len(self._pieces)
        self._pieces, self._logprobs = [], []
        return Piece(text, logprobs) if text or logprobs else None
