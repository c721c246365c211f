"""Bytes of tokens -> pieces of whole characters, with stop strings held back and cut off.

A token waits while what is waiting ends in the beginning of a stop string or in a part of a character; then all that
waits leaves as one piece, together with the log-probabilities of its tokens. Bytes that are no UTF-8 end their
piece: the piece is the valid text before them. Every token that is not cut off by a stop string has its
log-probabilities reported, in a piece without text where there is none.
"""

from collections.abc import Sequence

from .request import Piece, TokenLogprob


def find_stop(data: bytes, stops: Sequence[bytes]) -> bytes | None:
    """The first of `stops`, in their order, that occurs in data. An empty stop string occurs everywhere."""
    return next((stop for stop in stops if stop in data), None)


def ends_in_stop_prefix(data: bytes, stops: Sequence[bytes]) -> bool:
    """Whether data ends in a beginning of one of the stop strings."""
    return any(_ends_in_beginning(data, stop) for stop in stops)


def _ends_in_beginning(data: bytes, stop: bytes) -> bool:
    """Looks only where the first byte of `stop` stands, for stop strings may be many and as long as a request."""
    at = data.find(stop[:1], max(0, len(data) - len(stop))) if stop else -1
    while at >= 0:
        if stop.startswith(data[at:]):
            return True
        at = data.find(stop[:1], at + 1)
    return False


def cut_at_stop(pieces: Sequence[bytes], stop: bytes) -> tuple[list[bytes], bool]:
    """(pieces before the first `stop` in their joined bytes, whether the last of these lost a part of itself)."""
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
    """Whether data ends in the first bytes of a UTF-8 character whose other bytes are still to come."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:  # continuation: the character begins further back
            continue
        length = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return back < length
    return False


def valid_prefix(data: bytes) -> str:
    """The longest text that data begins with."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return data[: error.start].decode("utf-8")


class TextStream:
    """The text of one generation. `stopped` tells that a stop string came; nothing may be pushed after that.

    num_sent: tokens that have left; those that wait or that a stop string cut off entirely are not among them.
    """

    def __init__(self, stops: Sequence[str] = ()):
        # A lone surrogate cannot occur in a text; passing it on keeps it from matching anything.
        self._stops = [stop.encode("utf-8", "surrogatepass") for stop in stops]
        self._pieces: list[bytes] = []  # waiting tokens
        self._logprobs: list[TokenLogprob | None] = []  # theirs
        self.num_sent = 0
        self.stopped = False

    def push(self, data: bytes, logprob: TokenLogprob | None = None) -> Piece | None:
        """Take one token's bytes; the piece that is ready now, or None."""
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
        """All that waits, at the end of the generation: part of a stop string is text after all, part of a character
        is not.
        """
        text = valid_prefix(b"".join(self._pieces))
        logprobs = [logprob for logprob in self._logprobs if logprob is not None]
        self.num_sent += len(self._pieces)
        self._pieces, self._logprobs = [], []
        return Piece(text, logprobs) if text or logprobs else None
