"""Converts a Hugging Face model's tokenizer files to GGUF metadata.

In: functions that read a file of the folder (None if it does not exist). Out: {key: value} for `gguf_out.pair`. The
vocabulary comes from tokenizer.model (SentencePiece, with its original scores) if there is one, otherwise from
tokenizer.json. Special tokens come from tokenizer_config.json and generation_config.json; without these there are
none, as in Ollama.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from vkbackend.tokenizer.vocabulary import PREFIX

from . import sentencepiece_file
from .source import CannotConvert
from .tokenizer_json import BYTE_LEVEL, Vocabulary, from_sentencepiece, from_tokenizer_json

log = logging.getLogger(__name__)

# Name in tokenizer_config.json -> name in a GGUF, with GGUF's spelling of "separator".
SPECIAL = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "cls": "cls",
    "mask": "mask",
}
SWITCHES = ("bos", "eos", "sep")  # tokens with a GGUF key that says whether they are added to a text


def tokenizer_metadata(
    json_file: Callable[[str], dict[str, Any] | None], raw_file: Callable[[str], bytes | None], vocab_size: int
) -> dict[str, Any]:
    """GGUF metadata of the tokenizer.

    json_file, raw_file: contents of a file by its name, or None. vocab_size: rows of the embedding. Raises
    CannotConvert.
    """
    document = json_file("tokenizer.json")
    pieces = raw_file("tokenizer.model")
    if pieces is not None:
        vocabulary = from_sentencepiece(sentencepiece_file.read(pieces), json_file("added_tokens.json") or {}, document)
    elif document is not None:
        vocabulary = from_tokenizer_json(document)
    else:
        raise CannotConvert(
            "the tokenizer is missing; provide tokenizer.json or tokenizer.model together with the *.safetensors files"
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
    config = json_file("tokenizer_config.json") or {}
    generation = json_file("generation_config.json") or {}
    values |= _special_tokens(vocabulary, config, generation, vocabulary.template_of(document or {}))
    template = _chat_template(config, raw_file("chat_template.jinja"), json_file("chat_template.json"))
    return values | ({"tokenizer.chat_template": template} if template else {})


def _fit(vocabulary: Vocabulary, vocab_size: int) -> None:
    """Make the number of tokens equal to the embedding's rows.

    The embedding often has more, padded to a round number: dummy tokens are added. If it has fewer, added tokens that
    the model has never seen are dropped (gemma3 has one for images). Raises CannotConvert.
    """
    lost = range(vocab_size, len(vocabulary.tokens))
    if any(vocabulary.types[token_id] in (Vocabulary.NORMAL, Vocabulary.BYTE) for token_id in lost):
        raise CannotConvert(
            f"the tokenizer has {len(vocabulary.tokens)} tokens, but the embedding only {vocab_size} rows; "
            "does it belong to another model?"
        )
    if lost:
        log.warning(
            "dropping tokens beyond the embedding's %d rows: %s",
            vocab_size,
            ", ".join(vocabulary.tokens[token_id] for token_id in lost[:8]),
        )
        vocabulary.cut(vocab_size)
    for number in range(vocab_size - len(vocabulary.tokens)):
        vocabulary.add(f"[PAD{number}]", -1.0, Vocabulary.USER_DEFINED)


def _special_tokens(
    vocabulary: Vocabulary, config: dict[str, Any], generation: dict[str, Any], around: dict[str, bool]
) -> dict[str, Any]:
    """Ids of special tokens, and whether they are added to texts.

    The latter as tokenizer_config.json says, otherwise as the post-processor does (`around`).
    """
    values: dict[str, Any] = {}
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


def _ids(value: Any, vocab_size: int) -> list[int]:
    """Valid ids in a value that is one id or a list."""
    values = value if isinstance(value, list) else [value]
    return [each for each in values if type(each) is int and 0 <= each < vocab_size]


def _chat_template(config: dict[str, Any], jinja: bytes | None, document: dict[str, Any] | None) -> str:
    """The Jinja template: from its own file, or from tokenizer_config.json, the one called "default" of several."""
    if jinja is not None:
        return jinja.decode("utf-8", "replace")
    template = config.get("chat_template") or (document or {}).get("chat_template") or ""
    if isinstance(template, list):
        template = next(
            (each.get("template") for each in template if isinstance(each, dict) and each.get("name") == "default"), ""
        )
    if not isinstance(template, str):
        raise CannotConvert("tokenizer_config.json: chat_template is neither a string nor a list of named strings")
    return template
