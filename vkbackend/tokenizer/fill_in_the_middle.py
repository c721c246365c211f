"""The tokens with which a model is asked to fill in the middle of a text. In: a GGUF file's metadata. Out: their texts.

Keys name them: `tokenizer.ggml.fim_pre_token_id`, `fim_suf_token_id` and `fim_mid_token_id`, in older files
`prefix_token_id`, `suffix_token_id` and `middle_token_id`. Files without these keys have tokens with one of the texts
that llama.cpp knows.
"""

from ..gguf.metadata import Metadata
from .vocabulary import FILL_IN_THE_MIDDLE, PREFIX

_OLDER_KEYS = {"pre": "prefix_token_id", "suf": "suffix_token_id", "mid": "middle_token_id"}
_TEXTS = {part: frozenset(text.encode() for text in FILL_IN_THE_MIDDLE[part][1]) for part in _OLDER_KEYS}


def fill_in_the_middle(metadata: Metadata) -> tuple[str, str, str] | None:
    """Texts of the tokens before the prefix, before the suffix and before the middle; None if one is missing."""
    named = {part: _named(metadata, part) for part in _OLDER_KEYS}
    unnamed = [part for part, token_id in named.items() if token_id is None]
    if not all(metadata.mentioned(PREFIX + "tokens", _TEXTS[part]) for part in unnamed):
        return None  # found without decoding the vocabulary
    if PREFIX + "tokens" not in metadata:
        return None
    pieces = metadata.strings(PREFIX + "tokens")
    found: list[str] = []
    for part, token_id in named.items():
        if token_id is None:
            # The smallest id, as the vocabulary takes it.
            token_id = next((index for index, piece in enumerate(pieces) if piece in _TEXTS[part]), -1)
        if not 0 <= token_id < len(pieces):
            return None
        found.append(pieces[token_id].decode("utf-8", "replace"))
    return found[0], found[1], found[2]


def _named(metadata: Metadata, part: str) -> int | None:
    """The id under one of the keys of this part."""
    for key in (f"fim_{part}_token_id", _OLDER_KEYS[part]):
        token_id = metadata.get(PREFIX + key, None, None)
        if isinstance(token_id, int) and not isinstance(token_id, bool):
            return token_id
    return None
