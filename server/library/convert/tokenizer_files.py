"""A Hugging Face model's tokenizer files -> metadata of a GGUF.

In: functions that read a file of the folder (None where it is not there). Out: {key: value} for `gguf_out.pair`. The
vocabulary comes from tokenizer.model (SentencePiece, with the scores that it was made with) where there is one, else
from tokenizer.json. Begin, end and the like come from tokenizer_config.json and generation_config.json; a folder
without them gets none, as Ollama does it.
"""

import logging

import numpy as np

from . import sentencepiece_file
from .source import CannotConvert
from .tokenizer_json import BYTE_LEVEL, Vocabulary, from_sentencepiece, from_tokenizer_json

log = logging.getLogger(__name__)

PREFIX = "tokenizer.ggml."
# Name in tokenizer_config.json -> name in a GGUF (which spells one of them so).
SPECIAL = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "cls": "cls",
    "mask": "mask",
}
SWITCHES = ("bos", "eos", "sep")  # of which a GGUF says whether they are put around a text


def tokenizer_metadata(json_file, raw_file, vocab_size: int) -> dict:
    """json_file(name) -> dict | None, raw_file(name) -> bytes | None. vocab_size: rows of the embedding. Raises CannotConvert."""
    document, pieces = json_file("tokenizer.json"), raw_file("tokenizer.model")
    if pieces is not None:
        vocabulary = from_sentencepiece(sentencepiece_file.read(pieces), json_file("added_tokens.json") or {}, document)
    elif document is not None:
        vocabulary = from_tokenizer_json(document)
    else:
        raise CannotConvert(
            "the tokenizer is missing; give tokenizer.json or tokenizer.model together with the *.safetensors files"
        )
    _fit(vocabulary, vocab_size)
    values = {
        PREFIX + "model": vocabulary.model,
        PREFIX + "pre": vocabulary.pre,
        PREFIX + "tokens": vocabulary.tokens,
        PREFIX + "scores": np.array(vocabulary.scores, np.float32),
        PREFIX + "token_type": np.array(vocabulary.types, np.int32),
    }
    if vocabulary.model == BYTE_LEVEL:
        values[PREFIX + "merges"] = vocabulary.merges
    if vocabulary.add_space_prefix is not None:
        values[PREFIX + "add_space_prefix"] = vocabulary.add_space_prefix
    config, generation = json_file("tokenizer_config.json") or {}, json_file("generation_config.json") or {}
    values |= _special_tokens(vocabulary, config, generation, vocabulary.template_of(document or {}))
    template = _chat_template(config, raw_file("chat_template.jinja"), json_file("chat_template.json"))
    return values | ({"tokenizer.chat_template": template} if template else {})


def _fit(vocabulary: Vocabulary, vocab_size: int) -> None:
    """As many tokens as the embedding has rows: it often has more, for the sake of round numbers, and tokens are
    made up. Where it has fewer, added tokens are left out, which the model never learned (gemma3 has one for
    images).
    """
    lost = range(vocab_size, len(vocabulary.tokens))
    if any(vocabulary.types[token_id] in (Vocabulary.NORMAL, Vocabulary.BYTE) for token_id in lost):
        raise CannotConvert(
            f"the tokenizer has {len(vocabulary.tokens)} tokens, the embedding only {vocab_size} rows; "
            "is it another model's?"
        )
    if lost:
        log.warning(
            "the embedding has %d rows: leaving out the tokens %s",
            vocab_size,
            ", ".join(vocabulary.tokens[token_id] for token_id in lost[:8]),
        )
        vocabulary.cut(vocab_size)
    for number in range(vocab_size - len(vocabulary.tokens)):
        vocabulary.add(f"[PAD{number}]", -1.0, Vocabulary.USER_DEFINED)


def _special_tokens(vocabulary: Vocabulary, config: dict, generation: dict, around: dict[str, bool]) -> dict:
    """Ids, and whether they are put in front or behind: as tokenizer_config.json says, else as the post-processor
    does (`around`).
    """
    values = {}
    for name, key in SPECIAL.items():
        text = config.get(f"{name}_token")
        text = text.get("content") if isinstance(text, dict) else text
        token_id = vocabulary.find(text) if isinstance(text, str) else None
        ids = _ids(generation.get(f"{name}_token_id"), len(vocabulary.tokens))
        if token_id is None and ids:
            token_id = ids[0]
        if token_id is None:
            continue
        values[f"{PREFIX}{key}_token_id"] = token_id
        if len(ids) > 1:
            values[f"{PREFIX}{key}_token_ids"] = np.array(ids, np.int32)
        wanted = config.get(f"add_{name}_token", around.get(name))
        if name in SWITCHES and isinstance(wanted, bool):
            values[f"{PREFIX}add_{key}_token"] = wanted
    return values


def _ids(value, vocab_size: int) -> list[int]:
    """One id or a list of them."""
    return [
        each for each in (value if isinstance(value, list) else [value]) if type(each) is int and 0 <= each < vocab_size
    ]


def _chat_template(config: dict, jinja: bytes | None, document: dict | None) -> str:
    """A file of its own, or the text in tokenizer_config.json, or of several there the one called "default"."""
    if jinja is not None:
        return jinja.decode("utf-8", "replace")
    template = config.get("chat_template") or (document or {}).get("chat_template") or ""
    if isinstance(template, list):
        template = next(
            (each.get("template") for each in template if isinstance(each, dict) and each.get("name") == "default"), ""
        )
    if not isinstance(template, str):
        raise CannotConvert("tokenizer_config.json: chat_template is neither a text nor a list of named texts")
    return template
