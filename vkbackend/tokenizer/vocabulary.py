"""The tokens of a model, and which of them have a special meaning.

In: the `tokenizer.ggml.*` metadata of a GGUF file. Out: `Vocabulary`: texts, types, ids of special tokens, and the
tokens that end a generation. Knows nothing about how text becomes tokens. Keys:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Rules that go by the texts of tokens are llama.cpp's
(src/llama-vocab.cpp).
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import DTypeLike

from ..errors import TokenizerError
from ..gguf.metadata import Metadata
from .texts import Texts

log = logging.getLogger(__name__)

PREFIX = "tokenizer.ggml."
CACHED_WORDS = 1 << 15  # words whose tokens a tokenizer remembers
CACHED_LENGTH = 64  # longer words are not cached


class TokenType(IntEnum):
    """Values of `tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class SpecialDefaults:
    """Defaults of a kind of tokenizer, for keys that are not in the file. None: there is no such token."""

    bos_id: int | None = None
    eos_id: int | None = None
    unknown_id: int | None = None
    separator_id: int | None = None
    add_bos: bool = False
    add_eos: bool = False
    add_separator: bool = False
    add_space_prefix: bool = False


# Most files have no keys for the tokens that end a turn or fill in the middle. Like llama.cpp, this recognizes them by
# their texts. The lists are llama.cpp's, without "</s>", which is ordinary text in Gemma 3 and Phi-3, and "<eos>",
# which files name as their end.
END_OF_TURN = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
)
END_OF_MESSAGE = ("<|eom_id|>",)
ENDS_GENERATION = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<|flush|>",
    "<|calls|>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
)
FILL_IN_THE_MIDDLE = {  # part -> (whether it ends a generation, texts)
    "pre": (
        False,
        ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>"),
    ),
    "suf": (
        False,
        ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>"),
    ),
    "mid": (
        False,
        ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>"),
    ),
    "pad": (True, ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]")),
    "rep": (True, ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>")),
    "sep": (True, ("<|file_sep|>",)),
}
HARMONY_MARKS = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


class Vocabulary:
    """Tokens and their meaning.

    tokens: texts by id, as in the file (byte-level, or with U+2581 for spaces). types: `TokenType` by id. bos_id,
    eos_id, unknown_id, separator_id: None if there is no such token. eos_ids: all tokens that end a generation.
    """

    def __init__(self, metadata: Metadata, defaults: SpecialDefaults):
        """Raises GGUFError (a missing key, or one of another type), TokenizerError (contradictory keys)."""
        self.tokens = Texts(metadata.strings(PREFIX + "tokens"))
        if not self.tokens:
            raise TokenizerError(f"{PREFIX}tokens is empty; the file is damaged or badly converted")
        types = self.per_token(metadata, "token_type", np.int64, TokenType.NORMAL)
        types = np.where((types >= 0) & (types <= max(TokenType)), types, TokenType.UNDEFINED)
        self.types = bytearray(types.astype(np.uint8).tobytes())

        self.bos_id = self._special_id(metadata, "bos_token_id", defaults.bos_id)
        self.eos_id = self._special_id(metadata, "eos_token_id", defaults.eos_id)
        self.unknown_id = self._special_id(metadata, "unknown_token_id", defaults.unknown_id)
        separator = self._special_id(metadata, "separator_token_id", defaults.separator_id)
        self.separator_id = self._special_id(metadata, "seperator_token_id", separator)  # GGUF spells it so
        self.add_bos = metadata.get(PREFIX + "add_bos_token", bool, defaults.add_bos)
        self.add_eos = metadata.get(PREFIX + "add_eos_token", bool, defaults.add_eos)
        self.add_separator = metadata.get(PREFIX + "add_sep_token", bool, defaults.add_separator)
        self.add_space_prefix = metadata.get(PREFIX + "add_space_prefix", bool, defaults.add_space_prefix)
        for add, token_id, name in ((self.add_bos, self.bos_id, "bos"), (self.add_eos, self.eos_id, "eos")):
            if add and token_id is None:
                raise TokenizerError(
                    f"{PREFIX}add_{name}_token is true, but {PREFIX}{name}_token_id is not set; convert the model again"
                )
        self.eos_ids = self._find_ends(metadata)

    def __len__(self) -> int:
        return len(self.tokens)

    def byte_ids(self) -> list[int | None]:
        """The ids of the 256 byte tokens: `<0x41>`, else a token with only that ASCII character, else None."""
        texts = ((f"<0x{byte:02X}>", chr(byte)) if byte < 128 else (f"<0x{byte:02X}>",) for byte in range(256))
        return [next((self.tokens.find(text) for text in each if text in self.tokens), None) for each in texts]

    def per_token(self, metadata: Metadata, key: str, dtype: DTypeLike, default: float) -> np.ndarray:
        """An array with one number per token; `default` for all if the key is missing. Raises TokenizerError."""
        values = metadata.get(PREFIX + key, list, None)
        if values is None:
            return np.full(len(self.tokens), default, dtype)
        if len(values) < len(self.tokens):
            raise TokenizerError(
                f"{PREFIX}{key} has {len(values)} entries for {len(self.tokens)} tokens; the file is damaged or badly "
                f"converted"
            )
        numbers = np.asarray(values[: len(self.tokens)])
        if numbers.dtype.kind not in "biuf":
            raise TokenizerError(f"{PREFIX}{key} has no numbers; the file is damaged or badly converted")
        return numbers.astype(dtype)

    def _special_id(self, metadata: Metadata, key: str, default: int | None = None) -> int | None:
        if default is not None and default >= len(self.tokens):
            default = None
        token_id = metadata.get(PREFIX + key, int, default)
        if token_id is not None and not 0 <= token_id < len(self.tokens):
            log.warning(
                "ignoring %s%s = %d: there are %d tokens; using %s", PREFIX, key, token_id, len(self.tokens), default
            )
            return default
        return token_id

    def _ids_of(self, texts: Iterable[str]) -> list[int]:
        """Ids of the texts that are tokens."""
        return [token_id for text in texts if (token_id := self.tokens.find(text)) is not None]

    def _known_as(self, metadata: Metadata, key: str, texts: Iterable[str]) -> int | None:
        """The id under `key`, else the smallest id of a token with one of the texts, which then is a control token."""
        token_id = self._special_id(metadata, key)
        if token_id is None:
            token_id = min(self._ids_of(texts), default=None)
            if token_id is not None:
                self.types[token_id] = TokenType.CONTROL
        return token_id

    def _find_ends(self, metadata: Metadata) -> set[int]:
        """All tokens that end a generation. Also corrects the types of control tokens that are not marked as such."""
        ends = {
            self.eos_id,
            self._known_as(metadata, "eot_token_id", END_OF_TURN),
            self._known_as(metadata, "eom_token_id", END_OF_MESSAGE),
        }
        for part, (is_end, texts) in FILL_IN_THE_MIDDLE.items():
            token_id = self._known_as(metadata, f"fim_{part}_token_id", texts)
            if is_end:
                ends.add(token_id)
        for token_id in self._ids_of(ENDS_GENERATION):
            ends.add(token_id)
            self.types[token_id] = TokenType.CONTROL
        ends.update(
            int(token_id)
            for token_id in metadata.get(PREFIX + "eos_token_ids", list, ())
            if 0 <= token_id < len(self.tokens)
        )

        # gpt-oss: its parser reads the marks of a harmony message as text, and <|end|> only ends one of its messages.
        for token_id in self._ids_of(HARMONY_MARKS):
            self.types[token_id] = TokenType.USER_DEFINED
        # Solar Open has "<|calls|>" and "<|flush|>" instead.
        end = self.tokens.find("<|end|>")
        for marks in (("<|return|>", "<|call|>"), ("<|flush|>", "<|calls|>")):
            turn_ends = self._ids_of(marks)
            if end is not None and end in ends and len(turn_ends) == 2 and ends.issuperset(turn_ends):
                ends.discard(end)
                self.types[end] = TokenType.USER_DEFINED
        return {token_id for token_id in ends if token_id is not None}
