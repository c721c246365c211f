"""Log-probabilities in the shape of /v1/completions: parallel lists of tokens, numbers, maps and offsets.

In: native log-probabilities. Out: LegacyLogprobs. A token that is not valid UTF-8 by itself is written
`bytes:\\xe2\\x82`, as OpenAI does, so that different tokens have different keys in a map.
"""

import codecs

from ..wire import native
from ..wire.openai import LegacyLogprobs


class LegacyWriter:
    """Writes the log-probabilities of one choice, piece by piece; offsets count characters of the choice's text.

    num_top: how many of the most likely tokens are shown; the token itself is always included.
    """

    def __init__(self, num_top: int):
        self.num_top = num_top
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def write(self, tokens: list[native.Logprob]) -> LegacyLogprobs:
        """A token without bytes takes no space in the text; a token whose logprob is None is the first one."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(bytes(token.bytes or ())))
        return LegacyLogprobs(
            tokens=[shown(token) for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[self._top(token) for token in tokens] if self.num_top else None,
            text_offset=offsets,
        )

    def _top(self, token: native.Logprob) -> dict[str, float | None] | None:
        if token.logprob is None:
            return None
        likeliest = (token.top_logprobs or ())[: self.num_top]
        return {shown(other): other.logprob for other in likeliest} | {shown(token): token.logprob}


def shown(token: native.TokenLogprob) -> str:
    """A token as text, or its bytes if they are not valid UTF-8 by themselves."""
    if not token.bytes:
        return token.token
    try:
        return bytes(token.bytes).decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)
