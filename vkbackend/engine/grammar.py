"""Structured output: a request's `format` -> which tokens may come next, so that the text is JSON of that form.

In: `format` as a request has it (`"json"` in quotes: any object; else a JSON schema) and the model's tokenizer. Out:
a `TokenConstraint` per generation. The grammar and its masks are llguidance's. Where a schema says more than
llguidance knows (`not`, `uniqueItems`), the rest of it holds and the log names what does not. Numbers of a schema
are bounded, so that an answer ends.
"""

import json
import logging
import re
import threading
from collections import OrderedDict
from functools import cache, cached_property

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from ..errors import RequestError, VkbackendError
from .schema import ASSERTIONS, COMBINING, CleanSchema, cleaned

log = logging.getLogger(__name__)

JSON = '"json"'
LONGEST_TOKEN = 32  # bytes that are looked for at once where a tokenizer cannot be asked
MAX_NAMED = 20  # parts of a format that the log names
MAX_KEPT = 16  # compiled formats: a client seldom changes its schema from one request to the next
# Between JSON's parts the model may write a space, or a line end and an indent: what it has learnt to write, but not
# blanks without end.
OPTIONS = {"lenient": True, "whitespace_flexible": True, "whitespace_pattern": r" |\n[ \t]{0,20}"}

# How a schema is read: each way leaves out more than the one before, until some text fits.
READINGS = (
    {"closes": True},
    {"closes": False},
    {"closes": False, "without": ASSERTIONS},
    {"closes": False, "without": ASSERTIONS | {"required", *COMBINING}},
)
# Wide enough for objects with thousands of optional fields; a compilation ends within a second or so, a mask within 20
# ms.
LIMITS = LLParserLimits(
    max_items_in_row=50_000, step_max_items=200_000, initial_lexer_fuel=10_000_000, verbose_errors=False
)


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
        self.special_token_ids = [
            token_id for token_id in range(tokenizer.vocab_size) if tokenizer.is_control(token_id)
        ]  # never text

    def __call__(self, text: str) -> list[int]:
        """The tokens in which the model would write a text that nothing else can come in place of."""
        ids = self._tokenizer.encode(text, add_special=False, parse_special=False)
        return (
            ids if self._tokenizer.decode(ids) == text.encode() else self._longest_first(text.encode())
        )  # some put a space in front

    def _longest_first(self, data: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(data):
            end = next(
                (end for end in range(min(at + LONGEST_TOKEN, len(data)), at, -1) if data[at:end] in self._by_bytes),
                None,
            )
            if end is None:
                break
            ids.append(self._by_bytes[data[at:end]])
            at = end
        return ids

    @cached_property
    def _by_bytes(self) -> dict[bytes, int]:
        special = set(self.special_token_ids)
        return {
            data: token_id
            for token_id, data in reversed(list(enumerate(self.tokens)))
            if data and token_id not in special
        }


class Grammars:
    """The formats of one model, compiled when first asked for. vocab_size: columns of its logits. From any thread."""

    def __init__(self, tokenizer, vocab_size: int):
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._lock = threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._numbers: _Numbers | None = None
        self._compiled: OrderedDict[str, tuple[LLMatcher, int | None]] = OrderedDict()

    def constraint(self, format_text: str) -> "JsonConstraint":
        """A constraint for one generation. A schema that is new takes a while: a second for one of 200 KB, and for a
        model's first.

        Raises GrammarError for what is no schema, RequestError where the model has no end token: its texts could
        never end.
        """
        with self._lock:
            if format_text not in self._compiled:
                self._compiled[format_text] = self._compile(format_text)
                if len(self._compiled) > MAX_KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(format_text)
            matcher, num_digits = self._compiled[format_text]
            if num_digits is not None and self._numbers is None:
                self._numbers = _Numbers(self._tokenizer)
            bound = None if num_digits is None else NumberBound(self._numbers, num_digits)
            return JsonConstraint(matcher.deep_copy(), self._vocab_size, bound)

    def _compile(self, format_text: str) -> tuple[LLMatcher, int | None]:
        """(the grammar, digits that a number may have at most)"""
        if format_text == JSON:
            return self._matcher({"type": "object"}), None
        try:
            schema = json.loads(format_text, parse_int=_number)
            if not isinstance(schema, dict):
                raise ValueError("it is no JSON object")
            matcher, clean = self._read(schema)
        except (ValueError, RecursionError) as error:
            log.warning("a format cannot be read (%s)", error)
            raise GrammarError() from None
        # a schema that holds nothing but itself shows only now that there is no text to begin with
        matcher.compute_bitmask()
        if matcher.is_error():
            log.warning("a format is no schema that text can be held to: %s", matcher.get_error())
            raise GrammarError()
        left_out = clean.left_out + matcher.get_grammar_warnings()
        if left_out:
            log.warning("a format is held to in part; left out: %s", "; ".join(left_out[:MAX_NAMED]))
        return matcher, clean.num_digits

    def _read(self, schema: dict) -> tuple[LLMatcher, CleanSchema]:
        takes_pattern = cache(lambda pattern: self._is_grammar({"type": "string", "pattern": pattern}))
        for reading in READINGS:
            clean = cleaned(schema, takes_pattern, **reading)
            matcher = self._matcher(clean.schema)
            if not matcher.is_error():
                break
            log.debug("no text fits a format, read with %s: %s", reading, matcher.get_error())
        return matcher, clean

    def _is_grammar(self, schema: dict) -> bool:
        return not LLMatcher.validate_grammar(_grammar(schema), self._for_llguidance())

    def _matcher(self, schema: dict) -> LLMatcher:
        return LLMatcher(self._for_llguidance(), _grammar(schema), log_level=0, limits=LIMITS)

    def _for_llguidance(self) -> LLTokenizer:
        if not self._tokenizer.eos_ids:
            raise RequestError(
                "format: the model's file names no token that ends a text, so one of a given form could not end; "
                "leave format out"
            )
        if self._vocabulary is None:
            tokenizer = self._tokenizer
            self._vocabulary = LLTokenizer(
                _Vocabulary(tokenizer), n_vocab=tokenizer.vocab_size, eos_token=sorted(tokenizer.eos_ids)
            )
        return self._vocabulary


def _grammar(schema: dict) -> str:
    text = re.sub(
        "[\ud800-\udfff]", "\ufffd", json.dumps(schema, ensure_ascii=False)
    )  # halves of characters, which no text can have
    return LLMatcher.grammar_from_json_schema(text, defaults=OPTIONS)


def _number(text: str) -> int | float:
    return int(text) if len(text) < 400 else float(text)  # more digits than any double has


class _Numbers:
    """The digits of a vocabulary's tokens: how many each begins with, and the longest of its other runs."""

    def __init__(self, tokenizer):
        pieces = map(tokenizer.token_bytes, range(tokenizer.vocab_size))
        runs = [re.match(rb"([0-9]*)(.*)", piece, re.DOTALL) for piece in pieces]
        self.leading = np.array([len(run[1]) for run in runs])
        self.inner = np.array([max(map(len, re.findall(rb"[0-9]+", run[2])), default=0) for run in runs])
        self.token_bytes = tokenizer.token_bytes
        self.most = int(max(self.leading.max(), self.inner.max()))


class NumberBound:
    """Where in a JSON text a generation is, as far as digits go: no number may have more than num_digits in a row."""

    def __init__(self, numbers: _Numbers, num_digits: int):
        self._numbers, self._num_digits = numbers, num_digits
        self._in_string, self._is_escaped = False, False
        self._run = 0  # digits of the number that the text ends in

    def accept(self, token_id: int) -> None:
        for byte in self._numbers.token_bytes(token_id):
            if self._in_string:
                self._in_string = self._is_escaped or byte != ord('"')
                self._is_escaped = byte == ord("\\") and not self._is_escaped
            else:
                self._in_string = byte == ord('"')
                self._run = self._run + 1 if ord("0") <= byte <= ord("9") else 0

    def narrowed(self, allowed: np.ndarray) -> np.ndarray:
        """`allowed` (vocab,) without the tokens that would make a number too long."""
        if self._in_string or self._run + self._numbers.most <= self._num_digits:
            return allowed
        leading, inner = self._numbers.leading, self._numbers.inner
        too_long = (leading > 0) & (self._run + leading > self._num_digits) | (inner > self._num_digits)
        narrowed = allowed.copy()
        narrowed[: len(too_long)] &= ~too_long
        return narrowed

    def single_digits(self, allowed: np.ndarray) -> list[int]:
        """Those of the allowed tokens that are a digit and nothing else."""
        return [
            token_id for token_id in np.flatnonzero(allowed).tolist() if len(self._numbers.token_bytes(token_id)) == 1
        ]

    def ends(self, allowed: np.ndarray) -> bool:
        """Whether a number that may go on with any of the allowed tokens may also end."""
        return bool((self._numbers.leading[allowed[: len(self._numbers.leading)]] == 0).any())


class JsonConstraint:
    """A `TokenConstraint`: how far one text has come in its grammar. Raises VkbackendError where the grammar grows
    beyond all bounds.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int, bound: NumberBound | None = None):
        self._matcher, self._vocab_size, self._bound = matcher, vocab_size, bound
        self._allowed: np.ndarray | None = None

    def allowed(self) -> np.ndarray:
        if self._allowed is None:
            self._allowed = self._mask(self._matcher)
            self._check()
            if self._bound is not None:
                self._allowed = self._bounded(self._allowed)
        return self._allowed

    def _mask(self, matcher: LLMatcher) -> np.ndarray:
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")[: self._vocab_size]
        mask = np.zeros(self._vocab_size, bool)
        mask[: len(bits)] = bits
        return mask

    def _bounded(self, allowed: np.ndarray) -> np.ndarray:
        narrowed = self._bound.narrowed(allowed)
        if narrowed.any() or not allowed.any():
            return narrowed
        # The number does not fit yet, such as 5.0000000000000000 where it must be above 5: the digit that makes it fit
        # comes.
        ending = [token_id for token_id in self._bound.single_digits(allowed) if self._can_end_after(token_id)]
        narrowed[ending] = True
        return narrowed if ending else allowed

    def _can_end_after(self, digit: int) -> bool:
        matcher = self._matcher.deep_copy()
        matcher.consume_token(digit)
        return self._bound.ends(self._mask(matcher))

    def accept(self, token_id: int) -> None:
        self._allowed = None
        self._matcher.consume_token(token_id)
        self._check()
        if self._bound is not None:
            self._bound.accept(token_id)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise VkbackendError(
                f"format: the grammar cannot be gone on with ({self._matcher.get_error()}); use a simpler schema"
            )
