"""The tokens of a model as its GGUF lists them, and which of them have a special meaning.

In: the `tokenizer.ggml.*` metadata of a GGUF file. Out: `Vocabulary`: texts, types, the ids of special tokens, the
set of tokens that end a generation. Knows nothing of how text becomes tokens. Keys:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; what is derived from token texts follows llama.cpp
(src/llama-vocab.cpp).
"""

import logging
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from ..errors import TokenizerError
from .texts import Texts

log = logging.getLogger(__name__)

PREFIX = "tokenizer.ggml."


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`, by GGUF's numbers."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class SpecialDefaults:
    """What a kind of tokenizer takes where the file says nothing. An id of None means that there is no such token."""

    bos_id: int | None = None
    eos_id: int | None = None
    unknown_id: int | None = None
    separator_id: int | None = None
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False


# Files seldom name their turn-ending and fill-in-the-middle tokens by key, so llama.cpp goes by these texts, and so
# does this (its lists of late 2025; "</s>", added to them later, is left out, for Gemma 3 and Phi-3 have it as ordinary
# text).
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
)
FILL_IN_THE_MIDDLE = {  # part -> (does it end a generation, texts)
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
    """The tokens and their meaning.

    tokens: Texts by id, as in the file (byte-level or with U+2581 for spaces, as the kind has it).
    types: bytearray of TokenType by id.
    bos_id, eos_id, unknown_id, separator_id: int or None. eos_ids: set of all ids that end a generation.
    add_bos, add_eos, add_space_prefix: bool.
    """

    def __init__(self, metadata, defaults: SpecialDefaults):
        """Raises GGUFError (a key is missing or of another type), TokenizerError (the keys contradict each other)."""
        self.tokens = Texts(metadata.strings(PREFIX + "tokens"))
        if not self.tokens:
            raise TokenizerError(f"{PREFIX}tokens is empty; the file is damaged or badly converted")
        types = self.per_token(metadata, "token_type", np.int64, TokenType.NORMAL)
        types = np.where((types >= 0) & (types <= max(TokenType)), types, TokenType.UNDEFINED)
        self.types = bytearray(types.astype(np.uint8).tobytes())

        self.bos_id = self._special_id(metadata, "bos_token_id", defaults.bos_id)
        self.eos_id = self._special_id(metadata, "eos_token_id", defaults.eos_id)
        self.unknown_id = self._special_id(metadata, "unknown_token_id", defaults.unknown_id)
        self.separator_id = self._special_id(metadata, "seperator_token_id", defaults.separator_id)  # GGUF spells it so
        self.add_bos = metadata.get(PREFIX + "add_bos_token", bool, defaults.add_bos)
        self.add_eos = metadata.get(PREFIX + "add_eos_token", bool, defaults.add_eos)
        self.add_space_prefix = metadata.get(PREFIX + "add_space_prefix", bool, defaults.add_space_prefix)
        for add, token_id, name in ((self.add_bos, self.bos_id, "bos"), (self.add_eos, self.eos_id, "eos")):
            if add and token_id is None:
                raise TokenizerError(
                    f"{PREFIX}add_{name}_token is true, but {PREFIX}{name}_token_id is not set; convert the model again"
                )
        self.eos_ids = self._find_ends(metadata)

    def __len__(self):
        return len(self.tokens)

    def byte_ids(self) -> list[int | None]:
        """The ids of the 256 byte tokens: `<0x41>`, or a token of just that ASCII character, or None."""
        texts = ((f"<0x{byte:02X}>", chr(byte)) if byte < 128 else (f"<0x{byte:02X}>",) for byte in range(256))
        return [next((self.tokens.find(text) for text in each if text in self.tokens), None) for each in texts]

    def per_token(self, metadata, key, dtype, default) -> np.ndarray:
        """An array with one number per token, or `default` for all."""
        values = metadata.get(PREFIX + key, list, None)
        if values is None:
            return np.full(len(self.tokens), default, dtype)
        if len(values) < len(self.tokens):
            raise TokenizerError(
                f"{PREFIX}{key} has {len(values)} entries for {len(self.tokens)} tokens; the file is damaged or badly "
                f"converted"
            )
        return np.asarray(values[: len(self.tokens)]).astype(dtype)

    def _special_id(self, metadata, key, default=None) -> int | None:
        if default is not None and default >= len(self.tokens):
            default = None
        token_id = metadata.get(PREFIX + key, int, default)
        if token_id is not None and not 0 <= token_id < len(self.tokens):
            log.warning(
                "%s%s is %d, but there are %d tokens; using %s", PREFIX, key, token_id, len(self.tokens), default
            )
            return default
        return token_id

    def _known_as(self, metadata, key, texts) -> int | None:
        """The id under `key`, or else of the first token with one of the texts, which thereby is a control token."""
        token_id = self._special_id(metadata, key)
        if token_id is None:
            token_id = min((self.tokens.find(text) for text in texts if text in self.tokens), default=None)
            if token_id is not None:
                self.types[token_id] = TokenType.CONTROL
        return token_id

    def _find_ends(self, metadata) -> set[int]:
        """All tokens that end a generation; corrects the types of tokens that look like control tokens but are not
        marked so.
        """
        ends = {
            self.eos_id,
            self._known_as(metadata, "eot_token_id", END_OF_TURN),
            self._known_as(metadata, "eom_token_id", END_OF_MESSAGE),
        }
        for part, (is_end, texts) in FILL_IN_THE_MIDDLE.items():
            token_id = self._known_as(metadata, f"fim_{part}_token_id", texts)
            if is_end:
                ends.add(token_id)
        for text in ENDS_GENERATION:
            if (token_id := self.tokens.find(text)) is not None:
                ends.add(token_id)
                self.types[token_id] = TokenType.CONTROL
        ends.update(
            int(token_id)
            for token_id in metadata.get(PREFIX + "eos_token_ids", list, ())
            if 0 <= token_id < len(self.tokens)
        )

        # gpt-oss: the marks of a harmony message are text to its parser, and <|end|> only ends one message of several.
        for text in HARMONY_MARKS:
            if (token_id := self.tokens.find(text)) is not None:
                self.types[token_id] = TokenType.USER_DEFINED
        end, turn_ends = self.tokens.find("<|end|>"), {self.tokens.find("<|return|>"), self.tokens.find("<|call|>")}
        if end in ends and None not in turn_ends and turn_ends <= ends:
            ends.discard(end)
            self.types[end] = TokenType.USER_DEFINED
        return ends - {None}
