"""tokenizer.json of Hugging Face `tokenizers`, or SentencePiece's pieces -> a vocabulary as a GGUF has it.

Byte-level BPE becomes `gpt2`: tokens, merges and the name of its pre-tokenizer. BPE that falls back to bytes (what
SentencePiece models are turned into) becomes `llama`: GGUF joins the neighbours whose joint piece has the highest
score, so a piece's score is how early a merge makes it.
"""

import hashlib
import json
import logging
from dataclasses import dataclass, field

from .source import CannotConvert

log = logging.getLogger(__name__)

BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"
SPACE = "\u2581"
MAX_TOKENS = 1 << 21  # eight times the largest vocabularies; ids that nobody has take room, too
# SHA-256 of the regular expressions of all Split steps -> the name by which GGUF knows the pre-tokenizer.
BY_EXPRESSIONS = {
    "d98f9631be1e9607a9848c26c1f9eac1aa9fc21ac6ba82a2fc0741af9780a48f": "llama-bpe",
    "03df5c5863ad70781dcfdef491ead25140f895fe8010964be0daefe27be32b02": "deepseek-llm",
    "21cde974d587f0d54dc8d56b183cc1e6239600172035c68fbd6d4b9f8da0576e": "deepseek-coder",
    "1ff7f41064896984db5d1bb6ff64fa4bc29007d08c1b439e505b7392777a319e": "qwen2",
}


@dataclass
class Vocabulary:
    """model: `gpt2` or `llama`. scores: of each token; of use to `llama` alone. add_space_prefix: None where the
    kind has no such thing.
    """

    NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

    model: str
    pre: str = "default"
    tokens: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    add_space_prefix: bool | None = None

    def add(self, text: str, score: float, kind: int) -> None:
        self.tokens.append(text)
        self.scores.append(score)
        self.types.append(kind)

    def cut(self, num_tokens: int) -> None:
        """Keep the first tokens only."""
        for values in (self.tokens, self.scores, self.types):
            del values[num_tokens:]

    def find(self, text: str) -> int | None:
        return self.tokens.index(text) if text in self.tokens else None

    def template_of(self, document: dict) -> dict[str, bool]:
        """Whether a tokenizer.json's post-processor puts a token in front (bos) of and behind (eos) a single text;
        nothing where it does not say.
        """
        for step in _steps(document.get("post_processor"), "processors"):
            single = step.get("single") if step.get("type") == "TemplateProcessing" else None
            if isinstance(single, list) and single and all(isinstance(piece, dict) for piece in single):
                return {"bos": "SpecialToken" in single[0], "eos": "SpecialToken" in single[-1]}
        return {}


def from_tokenizer_json(document: dict) -> Vocabulary:
    """Raises CannotConvert, also for kinds of tokenizer that have no place here."""
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else None
        raise CannotConvert(
            f"tokenizer.json holds a tokenizer of kind {kind}; readable here: BPE, or SentencePiece as tokenizer.model"
        )
    tokens, added = _tokens(model["vocab"], document.get("added_tokens"))
    merges = _merges(model.get("merges"))
    if model.get("byte_fallback") is True:
        return _as_sentencepiece(document, model, tokens, added, merges)
    vocabulary = Vocabulary(BYTE_LEVEL, _pretokenizer(document), merges=merges)
    for token_id, text in enumerate(tokens):
        vocabulary.add(text, float(token_id), _kind_of(token_id, added))
    return vocabulary


def from_sentencepiece(file, added_tokens: dict, document: dict | None) -> Vocabulary:
    """file: tokenizer.model, as `sentencepiece_file` reads it; added_tokens: added_tokens.json, {text: id};
    document: tokenizer.json, which knows which pieces are special.
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
                f"added_tokens.json: invalid token id {token_id}; ids up to {len(vocabulary.tokens)} are given out"
            )
        if token_id == len(vocabulary.tokens):
            vocabulary.add(text, -1000.0, Vocabulary.USER_DEFINED)
    if document is not None:
        _, added = _tokens({}, document.get("added_tokens"))
        for token_id in added:
            if token_id < len(vocabulary.types) and vocabulary.types[token_id] in (
                Vocabulary.NORMAL,
                Vocabulary.USER_DEFINED,
            ):
                vocabulary.types[token_id] = _kind_of(token_id, added)
        vocabulary.add_space_prefix = _adds_space(document)
    return vocabulary


def _as_sentencepiece(document, model, tokens, added, merges) -> Vocabulary:
    rank = {}
    for number, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", "", 1), number)
    vocabulary, unknown = Vocabulary(SENTENCEPIECE, add_space_prefix=_adds_space(document)), model.get("unk_token")
    for token_id, text in enumerate(tokens):
        kind = _kind_of(token_id, added)
        if text == unknown:
            kind = Vocabulary.UNKNOWN
        elif kind == Vocabulary.NORMAL and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            kind = Vocabulary.BYTE
        # What no merge makes (single characters) comes after all that one does; nothing is ever joined into it.
        vocabulary.add(text, -float(rank.get(text, len(merges))), kind)
    return vocabulary


def _tokens(vocab: dict, added_tokens) -> tuple[list[str], dict[int, bool]]:
    """-> texts by id, and of the added ones whether they are special. Ids that nobody has become tokens that no text
    holds.
    """
    by_id, added = {}, {}
    for text, token_id in vocab.items():
        by_id[_id(token_id, text)] = text
    for entry in added_tokens if isinstance(added_tokens, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise CannotConvert(f"tokenizer.json: {str(entry)[:80]} is no added token")
        token_id = _id(entry.get("id"), entry["content"])
        by_id[token_id], added[token_id] = entry["content"], entry.get("special") is True
    return [by_id.get(token_id, f"[UNUSED{token_id}]") for token_id in range(max(by_id, default=-1) + 1)], added


def _id(token_id, text: str) -> int:
    if type(token_id) is not int or not 0 <= token_id < MAX_TOKENS:
        raise CannotConvert(f"tokenizer.json: the id of {text} is {token_id}; it is damaged, download it again")
    return token_id


def _kind_of(token_id: int, added: dict[int, bool]) -> int:
    if token_id not in added:
        return Vocabulary.NORMAL
    return Vocabulary.CONTROL if added[token_id] else Vocabulary.USER_DEFINED


def _merges(merges) -> list[str]:
    """Pairs, or "left right"."""
    texts = []
    for merge in merges if isinstance(merges, list) else []:
        text = " ".join(merge) if isinstance(merge, list) and all(isinstance(part, str) for part in merge) else merge
        if not isinstance(text, str):
            raise CannotConvert(f"tokenizer.json: {str(merge)[:80]} is no merge; it is damaged, download it again")
        texts.append(text)
    return texts


def _steps(part, inner: str) -> list[dict]:
    """A step, or those of a Sequence."""
    steps = part.get(inner) if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def _pretokenizer(document: dict) -> str:
    """The name in a GGUF of what cuts texts into words."""
    steps = _steps(document.get("pre_tokenizer"), "pretokenizers")
    expressions = [_expression(step) for step in steps if step.get("type") == "Split"]
    if expressions:
        digest = hashlib.sha256("".join(expressions).encode("utf-8", "surrogatepass")).hexdigest()
        if digest not in BY_EXPRESSIONS:
            log.warning(
                "tokenizer.json: its pre-tokenizer %s is not known here; using 'default', so the model may answer "
                "worse than it could",
                json.dumps(expressions)[:400],
            )
        return BY_EXPRESSIONS.get(digest, "default")
    kinds = [step.get("type") for step in steps]
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") is True:
        return "smollm"
    return "default"


def _expression(step: dict) -> str:
    pattern = step.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    return expression if isinstance(expression, str) else ""


def _adds_space(document: dict) -> bool:
    """Whether a space is put in front of every text."""
    for step in _steps(document.get("normalizer"), "normalizers"):
        if step.get("type") == "Prepend" and step.get("prepend") == SPACE:
            return True
    for step in _steps(document.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") == "Metaspace":
            return step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never") != "never"
    return False
