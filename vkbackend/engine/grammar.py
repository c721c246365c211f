"""Structured output: a request's `format` -> which tokens may come next, so that the text is JSON of that form.

In: `format` as a request has it (`"json"` in quotes: any object; else a JSON schema) and the model's tokenizer. Out: a `TokenConstraint`
per generation. The grammar and its masks are llguidance's. Where a schema says more than llguidance knows (`not`, `uniqueItems`), the
rest of it holds and the log names what does not.
"""

import json
import logging
import threading
from collections import OrderedDict
from functools import cached_property

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from ..errors import RequestError, VkbackendError

log = logging.getLogger(__name__)

JSON = '"json"'
LONGEST_TOKEN = 32  # bytes that are looked for at once where a tokenizer cannot be asked
MAX_KEPT = 16  # compiled formats: a client seldom changes its schema from one request to the next
# Between JSON's parts the model may write a space, or a line end and an indent: what it has learnt to write, but not blanks without end.
OPTIONS = {"lenient": True, "whitespace_flexible": True, "whitespace_pattern": r" |\n[ \t]{0,20}"}

# What an object says more of itself than its properties.
SAYS_MORE = {"additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"}
# Wide enough for objects with thousands of optional fields; a compilation ends within a second or so, a mask within 20 ms.
LIMITS = LLParserLimits(max_items_in_row=50_000, step_max_items=200_000, initial_lexer_fuel=10_000_000, verbose_errors=False)


class GrammarError(VkbackendError):
    """A format is no schema that text can be held to. Its text is Ollama's; the log says why."""

    def __init__(self):
        super().__init__("invalid JSON schema in format")


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.bos_token_id, self.eos_token_id = tokenizer.bos_id, min(tokenizer.eos_ids)
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        self.special_token_ids = [token_id for token_id in range(tokenizer.vocab_size) if tokenizer.is_control(token_id)]  # never text

    def __call__(self, text: str) -> list[int]:
        """The tokens in which the model would write a text that nothing else can come in place of."""
        ids = self._tokenizer.encode(text, add_special=False, parse_special=False)
        return ids if self._tokenizer.decode(ids) == text.encode() else self._longest_first(text.encode())  # some put a space in front

    def _longest_first(self, data: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(data):
            end = next((end for end in range(min(at + LONGEST_TOKEN, len(data)), at, -1) if data[at:end] in self._by_bytes), None)
            if end is None:
                break
            ids.append(self._by_bytes[data[at:end]])
            at = end
        return ids

    @cached_property
    def _by_bytes(self) -> dict[bytes, int]:
        special = set(self.special_token_ids)
        return {data: token_id for token_id, data in reversed(list(enumerate(self.tokens))) if data and token_id not in special}


class Grammars:
    """The formats of one model, compiled when first asked for. vocab_size: columns of its logits. From any thread."""

    def __init__(self, tokenizer, vocab_size: int):
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._lock = threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def constraint(self, format_text: str) -> "JsonConstraint":
        """A constraint for one generation. A schema that is new takes a while: a second for one of 200 KB, and for a model's first.

        Raises GrammarError for what is no schema, RequestError where the model has no end token: its texts could never end.
        """
        with self._lock:
            matcher = self._compiled.get(format_text)
            if matcher is None:
                matcher = self._compiled[format_text] = self._compile(format_text)
                if len(self._compiled) > MAX_KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(format_text)
            matcher = matcher.deep_copy()
        return JsonConstraint(matcher, self._vocab_size)

    def _compile(self, format_text: str) -> LLMatcher:
        try:
            schema = {"type": "object"} if format_text == JSON else json.loads(format_text)
            if not isinstance(schema, dict):
                raise ValueError("it is no JSON object")
            matcher = self._matcher(closed(schema))
            if matcher.is_error():
                matcher = self._matcher(schema)
        except (ValueError, RecursionError) as error:
            log.warning("a format cannot be read (%s)", error)
            raise GrammarError() from None
        matcher.compute_bitmask()  # a schema that holds nothing but itself shows only now that there is no text to begin with
        if matcher.is_error():
            log.warning("a format is no schema that text can be held to: %s", matcher.get_error())
            raise GrammarError()
        for warning in matcher.get_grammar_warnings():
            log.warning("a format is held to in part: %s", warning)
        return matcher

    def _matcher(self, schema: dict) -> LLMatcher:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=OPTIONS)
        return LLMatcher(self._for_llguidance(), grammar, log_level=0, limits=LIMITS)

    def _for_llguidance(self) -> LLTokenizer:
        if not self._tokenizer.eos_ids:
            raise RequestError("format: the model's file names no token that ends a text, so one of a given form could not end; leave format out")
        if self._vocabulary is None:
            tokenizer = self._tokenizer
            self._vocabulary = LLTokenizer(_Vocabulary(tokenizer), n_vocab=tokenizer.vocab_size, eos_token=sorted(tokenizer.eos_ids))
        return self._vocabulary


def closed(schema):
    """The schema in which objects that list their properties have no others, as in Ollama: a model that may go on adding some seldom stops.

    Those that say what others may be keep it, and parts of `allOf` stay open for one another.
    """
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key in ("properties", "$defs", "definitions", "patternProperties"):
        if isinstance(schema.get(key), dict):
            result[key] = {name: closed(part) for name, part in schema[key].items()}
    for key in ("anyOf", "oneOf", "prefixItems"):
        if isinstance(schema.get(key), list):
            result[key] = [closed(part) for part in schema[key]]
    for key in ("items", "additionalProperties"):
        if key in schema:
            result[key] = closed(schema[key])
    if isinstance(schema.get("properties"), dict) and not schema.keys() & SAYS_MORE:
        result["additionalProperties"] = False
    return result


class JsonConstraint:
    """A `TokenConstraint`: how far one text has come in its grammar. Raises VkbackendError where the grammar grows beyond all bounds."""

    def __init__(self, matcher: LLMatcher, vocab_size: int):
        self._matcher, self._vocab_size = matcher, vocab_size
        self._allowed: np.ndarray | None = None

    def allowed(self) -> np.ndarray:
        if self._allowed is None:
            bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")[:self._vocab_size]
            self._check()
            self._allowed = np.zeros(self._vocab_size, bool)
            self._allowed[:len(bits)] = bits
        return self._allowed

    def accept(self, token_id: int) -> None:
        self._allowed = None
        self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise VkbackendError(f"format: the grammar cannot be gone on with ({self._matcher.get_error()}); use a simpler schema")
