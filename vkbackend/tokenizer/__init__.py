"""Text -> token ids, and token ids -> the bytes they stand for, as a model's GGUF file describes it.

In: an open `GGUFFile`. Out: `Tokenizer`, whatever the kind in the file. Knows nothing of chat templates or of models.
"""

import re
from collections.abc import Sequence

from .. import cancellation
from ..errors import TokenizerError
from .bpe import ByteLevelBPE
from .long_texts import blocks, parts
from .sentencepiece import SentencePiece
from .special_tokens import WHEN_PARSED, SpecialTokens
from .vocabulary import PREFIX, TokenType
from .wordpiece import WordPiece

KINDS = {"gpt2": ByteLevelBPE, "llama": SentencePiece, "bert": WordPiece}
SURROGATES = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


class Tokenizer:
    """Use `Tokenizer.from_gguf`. Safe to use from several threads.

    bos_id: the token that begins a text, or None. eos_ids: set of the tokens that end a generation. adds_bos:
    whether `encode` puts bos_id in front (with add_special). adds_spaces: whether it puts a space before a text and
    after each special token in it. vocab_size: number of tokens.
    """

    def __init__(self, kind, strips_right=frozenset(), num_rows: int | None = None):
        """kind: an object with `vocabulary`, `encode(text, after_special)` and `token_bytes(id)`. num_rows: of the
        embedding; special tokens beyond them are plain text, as the model has never seen them (some files of gemma3
        have one for images).
        """
        self._kind, self._vocabulary = kind, kind.vocabulary
        self._special = SpecialTokens(kind.vocabulary, strips_right, num_rows)
        self.bos_id, self.eos_ids = self._vocabulary.bos_id, self._vocabulary.eos_ids
        self.adds_bos, self.vocab_size = self._vocabulary.add_bos, len(self._vocabulary)
        self.adds_spaces = isinstance(kind, SentencePiece) and self._vocabulary.add_space_prefix

    @classmethod
    def from_gguf(cls, file) -> "Tokenizer":
        """Raises TokenizerError (a kind that is not implemented, contradictions), GGUFError (missing or mistyped
        metadata).
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
            _strips_right(kind.vocabulary, file.metadata.get("general.name", str, "")),
            embedding.shape[0] if embedding else None,
        )
        file.release_pages()  # of the vocabulary, which was copied
        return tokenizer

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """-> ids.

        add_special: put bos in front and eos at the end where the model wants them.
        parse_special: read `<|im_start|>` and the like as the token it names; otherwise it is plain text.
        A lone surrogate, which no UTF-8 text can hold, is read as U+FFFD.
        """
        if not text.isascii():
            text = SURROGATES.sub(REPLACEMENT, text)
        before, after = self._around(add_special)
        ids = list(before)
        for start, end in parts(text, self._kind.PLACE_TO_CUT, self._special.at_cuts):
            ids += self._encode_part(text[start:end], start == 0, parse_special)
        return ids + after

    def encode_ends(self, text: str, most: int, keep: int, add_special: bool = True) -> list[int]:
        """The tokens of `encode`; of a text that has more than `most`, the first `keep` and the last ones, `most`
        together.

        What is dropped is not tokenized. The same tokens as those of the whole text, unless a word of more than
        100,000 characters is cut.
        """
        if not text.isascii():
            text = SURROGATES.sub(REPLACEMENT, text)
        before, after = self._around(add_special)
        whole = parts(text, self._kind.PLACE_TO_CUT, self._special.at_cuts)
        bounds, ids = list(blocks(text, whole, self._special.texts)), list(before)
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

    def _around(self, add_special: bool) -> tuple[list[int], list[int]]:
        vocabulary = self._vocabulary
        return (
            [vocabulary.bos_id] if add_special and vocabulary.add_bos else [],
            [vocabulary.eos_id] if add_special and vocabulary.add_eos else [],
        )

    def _encode_part(self, text: str, is_first: bool, parse_special: bool = True) -> list[int]:
        cancellation.check()
        ids, after_special = [], is_first
        for piece in self._special.split(text, parse_special):
            if isinstance(piece, str):
                ids += self._kind.encode(piece, after_special)
                after_special = False
            else:
                ids.append(piece)
                after_special = True
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes a token stands for, often only a part of a character; a control token's are its name's.

        Raises TokenizerError for an id outside of the vocabulary.
        """
        if not 0 <= token_id < self.vocab_size:
            raise TokenizerError(f"token {token_id} is not in the vocabulary of {self.vocab_size} tokens")
        return self._kind.token_bytes(token_id)

    def spans(self, text: str, ids: Sequence[int]) -> list[bytes]:
        """The part of `text` that each of its tokens, `encode(text)`, stands for: no bytes for spaces and tokens
        that encode added.

        Joined they are the text, except for white space that a special token swallowed.
        """
        data = SURROGATES.sub(REPLACEMENT, text).encode()
        at, is_added, found = 0, self.adds_spaces, []
        for index, token_id in enumerate(ids):
            token = self.token_bytes(token_id)
            if index == 0 and self.adds_bos and token_id == self.bos_id:
                found.append(b"")
                continue
            if is_added and token.startswith(b" "):
                token = token[1:]
            is_added = self.adds_spaces and self._vocabulary.types[token_id] in WHEN_PARSED
            if not data.startswith(token, at):  # special tokens may swallow white space around them
                skipped = len(data) - len(data[at:].lstrip())
                at = skipped if data.startswith(token, skipped) else at
            found.append(token if data.startswith(token, at) else b"")
            at += len(found[-1])
        return found

    def decode(self, ids) -> bytes:
        """The bytes of all tokens, one after the other. A text cut inside of a character gives bytes that are not
        valid UTF-8.
        """
        return b"".join(self.token_bytes(token_id) for token_id in ids)

    def is_control(self, token_id: int) -> bool:
        """Whether a token is a mark such as `<|im_start|>` that no text is made of."""
        return 0 <= token_id < self.vocab_size and self._vocabulary.types[token_id] == TokenType.CONTROL


def _strips_right(vocabulary, model_name: str) -> frozenset[int]:
    """The tokens that swallow the white space behind them. GGUF has no key for it; llama.cpp knows Phi-3 by its
    name, and so does this.
    """
    if not any(name in model_name.lower() for name in ("phi-3", "phi3")):
        return frozenset()
    kinds = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
    special = {token_id for token_id, kind in enumerate(vocabulary.types) if kind in kinds}
    special.add(vocabulary.tokens.find("</s>"))
    return frozenset(special - {None} - {vocabulary.tokens.find(text) for text in ("<unk>", "<s>", "<|endoftext|>")})
