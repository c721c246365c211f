"""Log-probabilities in the shape of /v1/completions: lists of tokens, of numbers, of maps, of offsets, with an entry
for each token.

In: native log-probabilities. Out: LegacyLogprobs. A token that is no whole text is written `bytes:\\xe2\\x82`, as
OpenAI does, so that no two different tokens read alike in a map.
"""

import codecs

from ..wire import native
from ..wire.openai import LegacyLogprobs


class LegacyWriter:
    """Writes one choice's log-probabilities, piece after piece; offsets count the characters of the choice's text.

    num_top: how many of the likeliest tokens are shown; the token itself is always among them, with the same number.
    """

    def __init__(self, num_top: int):
        self.num_top = num_top
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def write(self, tokens: list[native.Logprob]) -> LegacyLogprobs:
        """A token without bytes takes no place in the text; one whose logprob is None has no token before it."""
        found = LegacyLogprobs([], [], [] if self.num_top else None, [])
        for token in tokens:
            found.tokens.append(shown(token))
            found.token_logprobs.append(token.logprob)
            found.text_offset.append(self._offset)
            self._offset += len(self._decoder.decode(bytes(token.bytes or ())))
            if self.num_top:
                found.top_logprobs.append(self._top(token))
        return found

    def _top(self, token) -> dict[str, float] | None:
        if token.logprob is None:
            return None
        return {shown(other): other.logprob for other in (token.top_logprobs or ())[: self.num_top]} | {
            shown(token): token.logprob
        }


def shown(token: native.TokenLogprob) -> str:
    """A token as text, or its bytes where they are no text by themselves."""
    if not token.bytes:
        return token.token
    try:
        return bytes(token.bytes).decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)
