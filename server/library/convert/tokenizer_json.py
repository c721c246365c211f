"""Converts tokenizer.json of Hugging Face `tokenizers`, or SentencePiece pieces, to a GGUF vocabulary.

Byte-level BPE becomes `gpt2`: tokens, merges and the name of its pre-tokenizer. BPE with byte fallback (converted
SentencePiece models) becomes `llama`: GGUF merges the neighbours whose joined piece has the highest score, so the score
of a piece is how early a merge produces it.
"""

import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import Any

from .sentencepiece_file import SentencePieceFile
from .source import CannotConvert

log = logging.getLogger(__name__)

BYTE_LEVEL = "gpt2"
SENTENCEPIECE = "llama"
SPACE = "\u2581"
MAX_TOKENS = 1 << 21  # eight times the largest vocabularies; unused ids take memory, too
# SHA-256 of the regular expressions of all Split steps -> GGUF's name of the pre-tokenizer.
BY_EXPRESSIONS = {
    "d98f9631be1e9607a9848c26c1f9eac1aa9fc21ac6ba82a2fc0741af9780a48f": "llama-bpe",
    "03df5c5863ad70781dcfdef491ead25140f895fe8010964be0daefe27be32b02": "deepseek-llm",
    "21cde974d587f0d54dc8d56b183cc1e6239600172035c68fbd6d4b9f8da0576e": "deepseek-coder",
    "1ff7f41064896984db5d1bb6ff64fa4bc29007d08c1b439e505b7392777a319e": "qwen2",
}


@dataclass
class Vocabulary:
    """model: `gpt2` or `llama`. scores: per token, used by `llama` only. add_space_prefix: None for `gpt2`."""

    NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

    model: str
    pre: str = "default"
    tokens: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    add_space_prefix: bool | None = None

    def add(self, text: str, score: float, kind: int) -> None:
        """Append a token."""
        self.tokens.append(text)
        self.scores.append(score)
        self.types.append(kind)

    def cut(self, num_tokens: int) -> None:
        """Keep the first tokens only."""
        for values in (self.tokens, self.scores, self.types):
            del values[num_tokens:]

    def find(self, text: str) -> int | None:
        """Id of a token, or None."""
        return self.tokens.index(text) if text in self.tokens else None

    def template_of(self, document: dict[str, Any]) -> dict[str, bool]:
        """Whether the post-processor of a tokenizer.json adds tokens before (bos) and after (eos) a single text.

        Empty if it does not say.
        """
        for step in _steps(document.get("post_processor"), "processors"):
            single = step.get("single") if step.get("type") == "TemplateProcessing" else None
            if isinstance(single, list) and single and all(isinstance(piece, dict) for piece in single):
                return {"bos": "SpecialToken" in single[0], "eos": "SpecialToken" in single[-1]}
        return {}


def from_tokenizer_json(document: dict[str, Any]) -> Vocabulary:
    """Vocabulary of a tokenizer.json. Raises CannotConvert, also for unsupported kinds of tokenizer."""
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else None
        raise CannotConvert(
            f"tokenizer.json has a tokenizer of type {kind}; supported: BPE, or SentencePiece as tokenizer.model"
        )
    tokens, added = _tokens(model["vocab"], document.get("added_tokens"))
    merges = _merges(model.get("merges"))
    if model.get("byte_fallback") is True:
        return _as_sentencepiece(document, model, tokens, added, merges)
    vocabulary = Vocabulary(BYTE_LEVEL, _pretokenizer(document), merges=merges)
    for token_id, text in enumerate(tokens):
        vocabulary.add(text, float(token_id), _kind_of(token_id, added))
    return vocabulary


def from_sentencepiece(
    file: SentencePieceFile, added_tokens: dict[str, Any], document: dict[str, Any] | None
) -> Vocabulary:
    """Vocabulary of a tokenizer.model.

    added_tokens: added_tokens.json, {text: id}; document: tokenizer.json, which says which pieces are special. Raises
    CannotConvert.
    """
    vocabulary = Vocabulary(SENTENCEPIECE, add_space_prefix=file.adds_space)
    for piece in file.pieces:
        vocabulary.add(piece.text, piece.score, piece.type)
    for text, token_id in sorted(added_tokens.items(), key=lambda item: str(item[1])):
        if type(token_id) is not int or token_id < 0:
            raise CannotConvert(f"added_tokens.json: the id of {text} is {token_id}")
    for text, token_id in sorted(added_tokens.items(), key=lambda item: item[1]):
        if token_id > len(vocabulary.tokens):
            raise CannotConvert(
                f"added_tokens.json: invalid token id {token_id}; the next free id is {len(vocabulary.tokens)}"
            )
        if token_id == len(vocabulary.tokens):
            vocabulary.add(text, -1000.0, Vocabulary.USER_DEFINED)
    if document is not None:
        _, added = _tokens({}, document.get("added_tokens"))
        changeable = (Vocabulary.NORMAL, Vocabulary.USER_DEFINED)
        for token_id in added:
            if token_id < len(vocabulary.types) and vocabulary.types[token_id] in changeable:
                vocabulary.types[token_id] = _kind_of(token_id, added)
        vocabulary.add_space_prefix = _adds_space(document)
    return vocabulary


def _as_sentencepiece(
    document: dict[str, Any], model: dict[str, Any], tokens: list[str], added: dict[int, bool], merges: list[str]
) -> Vocabulary:
    rank: dict[str, int] = {}
    for number, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", "", 1), number)
    vocabulary = Vocabulary(SENTENCEPIECE, add_space_prefix=_adds_space(document))
    unknown = model.get("unk_token")
    for token_id, text in enumerate(tokens):
        kind = _kind_of(token_id, added)
        if text == unknown:
            kind = Vocabulary.UNKNOWN
        elif kind == Vocabulary.NORMAL and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            kind = Vocabulary.BYTE
        # Pieces that no merge produces (single characters) score lowest; nothing is ever merged into them.
        vocabulary.add(text, -float(rank.get(text, len(merges))), kind)
    return vocabulary


def _tokens(vocab: dict[str, Any], added_tokens: Any) -> tuple[list[str], dict[int, bool]]:
    """(texts by id, {id of an added token: whether it is special}). Unused ids get placeholder tokens."""
    by_id: dict[int, str] = {}
    added: dict[int, bool] = {}
    for text, token_id in vocab.items():
        by_id[_id(token_id, text)] = text
    for entry in added_tokens if isinstance(added_tokens, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise CannotConvert(f"tokenizer.json: {str(entry)[:80]} is not an added token")
        token_id = _id(entry.get("id"), entry["content"])
        by_id[token_id] = entry["content"]
        added[token_id] = entry.get("special") is True
    return [by_id.get(token_id, f"[UNUSED{token_id}]") for token_id in range(max(by_id, default=-1) + 1)], added


def _id(token_id: Any, text: str) -> int:
    if type(token_id) is not int or not 0 <= token_id < MAX_TOKENS:
        raise CannotConvert(f"tokenizer.json: the id of {text} is {token_id}; it is damaged, download it again")
    return token_id


def _kind_of(token_id: int, added: dict[int, bool]) -> int:
    if token_id not in added:
        return Vocabulary.NORMAL
    return Vocabulary.CONTROL if added[token_id] else Vocabulary.USER_DEFINED


def _merges(merges: Any) -> list[str]:
    """Merges as "left right"; the file has such texts or pairs."""
    texts = []
    for merge in merges if isinstance(merges, list) else []:
        text = " ".join(merge) if isinstance(merge, list) and all(isinstance(part, str) for part in merge) else merge
        if not isinstance(text, str):
            raise CannotConvert(f"tokenizer.json: {str(merge)[:80]} is not a merge; it is damaged, download it again")
        texts.append(text)
    return texts


def _steps(part: Any, inner: str) -> list[dict[str, Any]]:
    """The steps of a Sequence, or the only step."""
    steps = part.get(inner) if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def _pretokenizer(document: dict[str, Any]) -> str:
    """GGUF's name of the pre-tokenizer."""
    steps = _steps(document.get("pre_tokenizer"), "pretokenizers")
    expressions = [_expression(step) for step in steps if step.get("type") == "Split"]
    if expressions:
        digest = hashlib.sha256("".join(expressions).encode("utf-8", "surrogatepass")).hexdigest()
        if digest not in BY_EXPRESSIONS:
            log.warning(
                "tokenizer.json: unknown pre-tokenizer %s; using 'default', which may make the model's answers worse",
                json.dumps(expressions)[:400],
            )
        return BY_EXPRESSIONS.get(digest, "default")
    kinds = [step.get("type") for step in steps]
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") is True:
        return "smollm"
    return "default"


def _expression(step: dict[str, Any]) -> str:
    pattern = step.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    return expression if isinstance(expression, str) else ""


def _adds_space(document: dict[str, Any]) -> bool:
    """Whether texts get a leading space."""
    for step in _steps(document.get("normalizer"), "normalizers"):
        if step.get("type") == "Prepend" and step.get("prepend") == SPACE:
            return True
    for step in _steps(document.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") == "Metaspace":
            return step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never") != "never"
    return False
