"""A prompt's tokens: the check whether it fits, the run and the answer's `context` share them where texts are equal."""

from vkbackend.tokenizer import Tokenizer
from vkbackend.tokenizer.long_texts import LONG, encode_at_most

NUM_REMEMBERED = 4


class PromptTokens:
    """Tokenizes the texts of one request. Remembers the tokens of the last text that was counted and of the longest
    few that fit: the prompt is one of them, unless tags of images were put into it.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._last: tuple[str, list[int]] | None = None
        self._longest: list[tuple[str, list[int]]] = []  # that fit, in descending order

    def count(self, text: str, most: int) -> int:
        """Number of a text's tokens, without special ones at its ends; for a long text, possibly `most + 1` if it has
        more than `most`.
        """
        tokens = encode_at_most(self._tokenizer, text, most + 1, most + 1, add_special=False)
        fits = len(tokens) <= most
        if fits or len(text) <= LONG:  # else some of its tokens are missing
            self._last = (text, tokens)
        if fits:
            self._longest.append((text, tokens))
            self._longest.sort(key=lambda known: len(known[1]), reverse=True)
            del self._longest[NUM_REMEMBERED:]
        return len(tokens)

    def prompt(self, text: str, most: int, keep: int) -> list[int]:
        """The tokens that run, with special ones at the ends; of a long text with more than `most`, the first `keep`
        and the last ones, `most` together.
        """
        known = self._known(text)
        if known is None:
            return encode_at_most(self._tokenizer, text, most, keep)
        tokens = self._tokenizer.with_special(known)
        keep = min(keep, most)
        if len(text) <= LONG or len(tokens) <= most:
            return tokens
        return tokens[:keep] + tokens[len(tokens) - (most - keep) :]

    def plain(self, text: str, most: int) -> list[int]:
        """The tokens without special ones at the ends; of a long text, the last `most`."""
        known = self._known(text)
        if known is None:
            return encode_at_most(self._tokenizer, text, most, add_special=False)
        return known if len(text) <= LONG else known[-most:]

    def _known(self, text: str) -> list[int] | None:
        return next((tokens for known, tokens in filter(None, (self._last, *self._longest)) if known == text), None)
