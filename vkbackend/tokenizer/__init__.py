"""Text to token ids, and token ids to bytes, for the tokenizer that a GGUF file describes.

In: an open `GGUFFile`. Out: `Tokenizer`, for every kind. Knows nothing about chat templates or models.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from .. import cancellation
from ..errors import TokenizerError
from ..gguf.metadata import Metadata
from ..gguf.reader import GGUFFile
from .bpe import read_bpe
from .long_texts import blocks, parts
from .rwkv import Rwkv
from .sentencepiece import SentencePiece
from .special_tokens import WHEN_PARSED, SpecialTokens
from .unigram import Unigram
from .vocabulary import PREFIX, TokenType, Vocabulary
from .wordpiece import WordPiece

KINDS: dict[str, Callable[[Metadata], "TokenizerKind"]] = {
    "gpt2": read_bpe,
    "gemma4": read_bpe,
    "llama": SentencePiece,
    "bert": WordPiece,
    "t5": Unigram,
    "rwkv": Rwkv,
    "whitespace": read_bpe,
}
# Mask token that strips white space, by architecture, pre-tokenizer or name of the model.
MASKS = {
    **dict.fromkeys(("nomic-bert-moe", "jina-bert-v3", "jina-v2-de", "jina-v2-es", "jina-v2-code", "mmbert"), "<mask>"),
    "modern-bert": "[MASK]",
}
SURROGATES = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


class TokenizerKind(Protocol):
    """Tokenizes text without special tokens."""

    vocabulary: Vocabulary
    PLACE_TO_CUT: re.Pattern[str]  # matches where a long text can be cut without changing its tokens

    def encode(self, text: str, after_special: bool) -> list[int]:
        """after_special: the text is at the start of the input or follows a special token."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token, whose id must be in the vocabulary."""
        ...


class Tokenizer:
    """Made by `Tokenizer.from_gguf`. Can be used from several threads.

    bos_id: the token that begins a text, or None. eos_ids: tokens that end a generation. adds_bos: whether `encode`
    puts bos_id first (with add_special). adds_spaces: whether it puts a space before the text and after each special
    token. vocab_size: number of tokens.
    """

    def __init__(
        self,
        kind: TokenizerKind,
        strips_left: frozenset[int] = frozenset(),
        strips_right: frozenset[int] = frozenset(),
        num_rows: int | None = None,
    ):
        """strips_left, strips_right: see `SpecialTokens`. num_rows: of the embedding. Special tokens beyond it count
        as plain text, because the model was not trained on them; some gemma3 files have one for images.
        """
        self._kind = kind
        self._vocabulary = kind.vocabulary
        self._special = SpecialTokens(kind.vocabulary, strips_left, strips_right, num_rows)
        self.bos_id = self._vocabulary.bos_id
        self.eos_ids = self._vocabulary.eos_ids
        self.adds_bos = self._vocabulary.add_bos
        self.adds_spaces = isinstance(kind, SentencePiece) and self._vocabulary.add_space_prefix
        self.vocab_size = len(self._vocabulary)

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "Tokenizer":
        """Raises TokenizerError (unknown kind of tokenizer, contradictory metadata), GGUFError (missing metadata, or of
        another type).
        """
        model = file.metadata.get(PREFIX + "model", str)
        if model not in KINDS:
            raise TokenizerError(
                f"{file.path}: tokenizer {model!r} ({PREFIX}model) is not implemented; readable here: "
                f"{', '.join(KINDS)}"
            )
        kind = KINDS[model](file.metadata)
        embedding = file.tensors.get("token_embd.weight")
        tokenizer = cls(
            kind,
            _strips_left(kind.vocabulary, file.metadata),
            _strips_right(kind.vocabulary, file.metadata.get("general.name", str, "")),
            embedding.shape[0] if embedding else None,
        )
        file.release_pages()  # the vocabulary was copied
        return tokenizer

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """The token ids of `text`.

        add_special: put bos first and eos last if the model wants them. parse_special: text such as `<|im_start|>` is
        the token of that name, otherwise plain text. Lone surrogates, which UTF-8 cannot encode, become U+FFFD.
        """
        if not text.isascii():
            text = SURROGATES.sub(REPLACEMENT, text)
        before, after = self._around(add_special)
        ids = list(before)
        for start, end in parts(text, self._kind.PLACE_TO_CUT, self._special.at_cuts):
            ids += self._encode_part(text[start:end], start == 0, parse_special)
        return ids + after

    def encode_ends(self, text: str, most: int, keep: int, add_special: bool = True) -> list[int]:
        """The tokens of `encode`, at most `most`: of a longer text the first `keep` tokens and the last ones.

        The text between them is not tokenized. The tokens are those of the whole text, unless a word of more than
        100,000 characters had to be cut.
        """
        if not text.isascii():
            text = SURROGATES.sub(REPLACEMENT, text)
        before, after = self._around(add_special)
        whole = parts(text, self._kind.PLACE_TO_CUT, self._special.at_cuts)
        bounds = list(blocks(text, whole, self._special.texts))
        ids = list(before)
        for start, end in bounds:
            ids += self._encode_part(text[start:end], start == 0)
            if len(ids) + len(after) > most:
                break
        else:
            return ids + after if len(bounds) == len(whole) else self.encode(text, add_special)
        last = list(after)
        for start, end in reversed(bounds):
            if len(last) >= most - keep:
                break
            last = self._encode_part(text[start:end], start == 0) + last
        return ids[:keep] + last[len(last) - (most - keep) :]

    def with_special(self, ids: list[int]) -> list[int]:
        """`encode(text)` from the ids of `encode(text, add_special=False)`."""
        before, after = self._around(True)
        return before + ids + after

    def encode_pair(self, first: str, second: str) -> list[int]:
        """The token ids of two texts, such as a query and a document to rank: bos, the first, eos, the separator, the
        second, eos, each special token only if the model wants it. Special tokens in the texts are plain text.
        """
        vocabulary = self._vocabulary
        before, after = self._around(True)
        separator_id = vocabulary.separator_id
        separator = [separator_id] if vocabulary.add_separator and separator_id is not None else []
        texts = [self.encode(text, add_special=False, parse_special=False) for text in (first, second)]
        return [*before, *texts[0], *after, *separator, *texts[1], *after]

    def _around(self, add_special: bool) -> tuple[list[int], list[int]]:
        """The tokens to put before and after a text."""
        if not add_special:
            return [], []
        bos, eos = self._vocabulary.bos_id, self._vocabulary.eos_id
        return (
            [bos] if self._vocabulary.add_bos and bos is not None else [],
            [eos] if self._vocabulary.add_eos and eos is not None else [],
        )

    def _encode_part(self, text: str, is_first: bool, parse_special: bool = True) -> list[int]:
        cancellation.check()
        ids: list[int] = []
        after_special = is_first
        for piece in self._special.split(text, parse_special):
            if isinstance(piece, str):
                ids += self._kind.encode(piece, after_special)
                after_special = False
            else:
                ids.append(piece)
                after_special = True
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token, which may be only a part of a character; for a control token, those of its name.

        Raises TokenizerError for an id that is not in the vocabulary.
        """
        if not 0 <= token_id < self.vocab_size:
            raise TokenizerError(f"token {token_id} is not in the vocabulary of {self.vocab_size} tokens")
        return self._kind.token_bytes(token_id)

    def spans(self, text: str, ids: Sequence[int]) -> list[bytes]:
        """The part of `text` that each token of ids = `encode(text)` covers, empty for tokens that encode added.

        Joined, the parts are the text without the white space that special tokens strip, and without added spaces.
        """
        data = SURROGATES.sub(REPLACEMENT, text).encode()
        found: list[bytes] = []
        at = 0
        is_added = self.adds_spaces  # whether a space before this token was added
        for index, token_id in enumerate(ids):
            token = self.token_bytes(token_id)
            if index == 0 and self.adds_bos and token_id == self.bos_id:
                found.append(b"")
                continue
            if is_added and token.startswith(b" "):
                token = token[1:]
            is_added = self.adds_spaces and self._vocabulary.types[token_id] in WHEN_PARSED
            if not data.startswith(token, at):  # special tokens may strip white space around them
                skipped = len(data) - len(data[at:].lstrip())
                at = skipped if data.startswith(token, skipped) else at
            found.append(token if data.startswith(token, at) else b"")
            at += len(found[-1])
        return found

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of all tokens. They are not valid UTF-8 if the tokens begin or end inside a character."""
        return b"".join(self.token_bytes(token_id) for token_id in ids)

    def is_control(self, token_id: int) -> bool:
        """Whether a token is a mark such as `<|im_start|>`, which is not part of any text."""
        return 0 <= token_id < self.vocab_size and self._vocabulary.types[token_id] == TokenType.CONTROL


def _strips_left(vocabulary: Vocabulary, metadata: Metadata) -> frozenset[int]:
    """The tokens that strip the white space before them: `<mask>` of the embedding models that llama.cpp recognizes by
    the same names.
    """
    names = (
        metadata.get("general.architecture", str, ""),
        metadata.get(PREFIX + "pre", str, ""),
        "modern-bert" if "modern-bert" in metadata.get("general.name", str, "").lower() else "",
    )
    found = {vocabulary.tokens.find(MASKS[name]) for name in names if name in MASKS}
    return frozenset(token_id for token_id in found if token_id is not None)


def _strips_right(vocabulary: Vocabulary, model_name: str) -> frozenset[int]:
    """The tokens that strip the white space after them. GGUF has no key for this; like llama.cpp, this recognizes
    Phi-3, which needs it, by the model's name.
    """
    if not any(name in model_name.lower() for name in ("phi-3", "phi3")):
        return frozenset()
    kinds = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
    special: set[int | None] = {token_id for token_id, kind in enumerate(vocabulary.types) if kind in kinds}
    special.add(vocabulary.tokens.find("</s>"))
    special -= {vocabulary.tokens.find(text) for text in ("<unk>", "<s>", "<|endoftext|>")}
    return frozenset(token_id for token_id in special if token_id is not None)
