"""Structured output: turns a request's `format` into masks of allowed tokens, so that the text matches the format.

In: a request's `format` (`"json"` in quotes: any object; else a JSON schema) and the model's tokenizer. Out: a
`TokenConstraint` per generation. llguidance compiles the grammar and computes the masks. Keywords that it does not
support (`not`, `uniqueItems`) are ignored and logged. The digits of numbers are limited, so that an answer ends.
"""

import json
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from ..errors import RequestError, VkbackendError
from ..tokenizer import Tokenizer
from .schema import ASSERTIONS, COMBINING, CleanSchema, cleaned
from .schema_limits import STACK_BYTES, Budget, check_size

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

log = logging.getLogger(__name__)

JSON = '"json"'
LONGEST_TOKEN = 32  # bytes; the longest piece that is looked up if the tokenizer does not encode a text exactly
MAX_NAMED = 20  # ignored parts of a format that are logged
MAX_KEPT = 16  # compiled formats: clients rarely change their schema between requests
# Between the parts of JSON the model may write a space, or a line end and an indent, as it learned to do, but not
# white space without end.
OPTIONS: "JsonCompileOptions" = {
    "lenient": True,
    "whitespace_flexible": True,
    "whitespace_pattern": r" |\n[ \t]{0,20}",
}

# Ways to read a schema, as arguments of `cleaned`: (closes, without). Each ignores more than the one before; the first
# that some text satisfies is used.
READINGS: tuple[tuple[bool, frozenset[str]], ...] = (
    (True, frozenset()),
    (False, frozenset()),
    (False, ASSERTIONS),
    (False, ASSERTIONS | {"required", *COMBINING}),
)
# Sufficient for objects with thousands of optional fields. A mask takes at most 20 ms.
LIMITS = LLParserLimits(
    max_items_in_row=50_000, step_max_items=200_000, initial_lexer_fuel=10_000_000, verbose_errors=False
)


class GrammarError(VkbackendError):
    """A format is not a schema that can be compiled. The text is Ollama's; the log gives the reason."""

    def __init__(self) -> None:
        super().__init__("invalid JSON schema in format")


class _Vocabulary:
    """A tokenizer with the interface that llguidance expects."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.bos_token_id = tokenizer.bos_id
        self.eos_token_id = min(tokenizer.eos_ids)
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        # These are never part of a text.
        self.special_token_ids = [
            token_id for token_id in range(tokenizer.vocab_size) if tokenizer.is_control(token_id)
        ]

    def __call__(self, text: str) -> list[int]:
        """Encode a text that the grammar forces."""
        ids = self._tokenizer.encode(text, add_special=False, parse_special=False)
        # Some tokenizers put a space in front of a text.
        return ids if self._tokenizer.decode(ids) == text.encode() else self._longest_first(text.encode())

    def _longest_first(self, data: bytes) -> list[int]:
        ids = []
        at = 0
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
    """The compiled formats of one model. Safe to use from several threads. vocab_size: length of a row of logits."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int):
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[str, tuple[LLMatcher, int | None]] = OrderedDict()

    def constraint(self, format_text: str) -> "JsonConstraint":
        """A constraint for one generation.

        A new schema takes time: about a second for one of 200 KB, and a second more for a model's first. Raises
        GrammarError if the format is not a schema or too large to compile (see `schema_limits`), RequestError if the
        model has no end token, since its texts could never end.
        """
        with self._lock:
            if format_text not in self._compiled:
                self._compiled[format_text] = _with_large_stack(lambda: self._compile(format_text))
                if len(self._compiled) > MAX_KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(format_text)
            matcher, num_digits = self._compiled[format_text]
            bound = None if num_digits is None else NumberBound(self._numbers, num_digits)
            return JsonConstraint(matcher.deep_copy(), self._vocab_size, bound)

    @cached_property
    def _numbers(self) -> "_Numbers":
        return _Numbers(self._tokenizer)

    def _compile(self, format_text: str) -> tuple[LLMatcher, int | None]:
        """Returns the grammar and the maximum number of digits in a row in its numbers, None for no limit."""
        if format_text == JSON:
            return self._matcher({"type": "object"}), None
        try:
            schema = json.loads(format_text, parse_int=_number)
            if not isinstance(schema, dict):
                raise ValueError("it is not a JSON object")
            matcher, clean = self._read(schema)
        except (ValueError, RecursionError) as error:
            log.warning("rejecting a format: %s", error)
            raise GrammarError() from None
        # A schema whose only content is itself is found here: no token can begin its text.
        matcher.compute_bitmask()
        if matcher.is_error():
            log.warning("rejecting a format that cannot be compiled: %s", matcher.get_error())
            raise GrammarError()
        left_out = clean.left_out + matcher.get_grammar_warnings()
        if left_out:
            log.warning("ignoring parts of a format: left out %s", "; ".join(left_out[:MAX_NAMED]))
        return matcher, clean.num_digits

    def _read(self, schema: dict) -> tuple[LLMatcher, CleanSchema]:
        """The grammar of the first of READINGS that works, or of the last. Raises InvalidSchema."""
        budget = Budget()

        @cache
        def takes_pattern(pattern: str) -> bool:
            budget.check()
            return self._is_grammar({"type": "string", "pattern": pattern})

        for closes, without in READINGS[:-1]:
            clean = cleaned(schema, takes_pattern, closes=closes, without=without)
            matcher = self._matcher(clean.schema)
            if not matcher.is_error():
                return matcher, clean
            log.debug("no text matches a format, read with %s, %s: %s", closes, without, matcher.get_error())
            budget.check()
        closes, without = READINGS[-1]
        clean = cleaned(schema, takes_pattern, closes=closes, without=without)
        return self._matcher(clean.schema), clean

    def _is_grammar(self, schema: dict) -> bool:
        return not LLMatcher.validate_grammar(_grammar(schema), self._for_llguidance())

    def _matcher(self, schema: dict) -> LLMatcher:
        check_size(schema)
        return LLMatcher(self._for_llguidance(), _grammar(schema), log_level=0, limits=LIMITS)

    def _for_llguidance(self) -> LLTokenizer:
        if not self._tokenizer.eos_ids:
            raise RequestError(
                "format: the model's file has no end token, so a text of a given format could not end; leave format out"
            )
        if self._vocabulary is None:
            tokenizer = self._tokenizer
            wrapper: Any = _Vocabulary(tokenizer)  # has what llguidance's TokenizerWrapper has
            self._vocabulary = LLTokenizer(wrapper, n_vocab=tokenizer.vocab_size, eos_token=sorted(tokenizer.eos_ids))
        return self._vocabulary


Result = TypeVar("Result")
_stack_lock = threading.Lock()


def _with_large_stack(work: Callable[[], Result]) -> Result:
    """Call a function in a thread with STACK_BYTES of stack. An overflow in llguidance would end the process."""
    with _stack_lock:
        usual = threading.stack_size(STACK_BYTES)
        try:
            pool = ThreadPoolExecutor(1, "grammar")
            future = pool.submit(work)
        finally:
            threading.stack_size(usual)
    with pool:
        return future.result()


def _grammar(schema: dict) -> str:
    # Surrogates cannot occur in a text.
    text = re.sub("[\ud800-\udfff]", "\ufffd", json.dumps(schema, ensure_ascii=False))
    return LLMatcher.grammar_from_json_schema(text, defaults=OPTIONS)


def _number(text: str) -> int | float:
    return int(text) if len(text) < 400 else float(text)  # more digits than any double has


class _Numbers:
    """Digits in the tokens of a vocabulary: how many each begins with, and the longest run of the others."""

    def __init__(self, tokenizer: Tokenizer):
        pieces = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        rests = [piece.lstrip(b"0123456789") for piece in pieces]
        self.leading = np.array([len(piece) - len(rest) for piece, rest in zip(pieces, rests)])
        self.inner = np.array([max(map(len, re.findall(rb"[0-9]+", rest)), default=0) for rest in rests])
        self.token_bytes = tokenizer.token_bytes
        self.most = int(max(self.leading.max(), self.inner.max()))


class NumberBound:
    """Limits the digits in a row of the numbers in a JSON text to num_digits."""

    def __init__(self, numbers: _Numbers, num_digits: int):
        self._numbers = numbers
        self._num_digits = num_digits
        self._in_string = False
        self._is_escaped = False
        self._run = 0  # digits at the end of the text

    def accept(self, token_id: int) -> None:
        """Advance by one token: count the digits that end the text so far, outside of strings."""
        for byte in self._numbers.token_bytes(token_id):
            if self._in_string:
                self._in_string = self._is_escaped or byte != ord('"')
                self._is_escaped = byte == ord("\\") and not self._is_escaped
            else:
                self._in_string = byte == ord('"')
                self._run = self._run + 1 if ord("0") <= byte <= ord("9") else 0

    def narrowed(self, allowed: np.ndarray) -> np.ndarray:
        """The mask `allowed` (vocab,) without the tokens that would make a number too long."""
        if self._in_string or self._run + self._numbers.most <= self._num_digits:
            return allowed
        leading, inner = self._numbers.leading, self._numbers.inner
        too_long = (leading > 0) & (self._run + leading > self._num_digits) | (inner > self._num_digits)
        narrowed = allowed.copy()
        narrowed[: len(too_long)] &= ~too_long
        return narrowed

    def single_digits(self, allowed: np.ndarray) -> list[int]:
        """The allowed tokens of one byte, where only a number may continue."""
        return [
            token_id for token_id in np.flatnonzero(allowed).tolist() if len(self._numbers.token_bytes(token_id)) == 1
        ]

    def ends(self, allowed: np.ndarray) -> bool:
        """Whether a number that any of the allowed tokens may follow can also end."""
        return bool((self._numbers.leading[allowed[: len(self._numbers.leading)]] == 0).any())


class JsonConstraint:
    """A `TokenConstraint`: the state of one text in its grammar.

    Its methods raise VkbackendError if the grammar exceeds llguidance's limits.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int, bound: NumberBound | None = None):
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._bound = bound
        self._allowed: np.ndarray | None = None

    def allowed(self) -> np.ndarray:
        """Mask of the tokens that may come next, (vocab,) bool."""
        if self._allowed is None:
            self._allowed = self._mask(self._matcher)
            self._check()
            if self._bound is not None:
                self._allowed = self._bounded(self._allowed, self._bound)
        return self._allowed

    def _mask(self, matcher: LLMatcher) -> np.ndarray:
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")[: self._vocab_size]
        mask = np.zeros(self._vocab_size, bool)
        mask[: len(bits)] = bits
        return mask

    def _bounded(self, allowed: np.ndarray, bound: NumberBound) -> np.ndarray:
        narrowed = bound.narrowed(allowed)
        if narrowed.any() or not allowed.any():
            return narrowed
        # The number is as long as allowed, but not valid yet, such as 5.0000000000000000 where it must exceed 5: allow
        # one more digit that makes it valid.
        ending = [token_id for token_id in bound.single_digits(allowed) if self._can_end_after(token_id, bound)]
        narrowed[ending] = True
        return narrowed if ending else allowed

    def _can_end_after(self, digit: int, bound: NumberBound) -> bool:
        matcher = self._matcher.deep_copy()
        matcher.consume_token(digit)
        return bound.ends(self._mask(matcher))

    def accept(self, token_id: int) -> None:
        """Advance by one token."""
        self._allowed = None
        self._matcher.consume_token(token_id)
        self._check()
        if self._bound is not None:
            self._bound.accept(token_id)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise VkbackendError(
                f"format: the grammar cannot be continued ({self._matcher.get_error()}); use a simpler schema"
            )
