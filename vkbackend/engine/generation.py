"""One request on its way through the engine: which tokens are still to run, and what each row of logits turns into.

In: a request, then the rows that the runner computes for it. Out: events to its listener. It knows neither the runner nor
the thread it is called on.
"""

import logging
import time
from typing import Callable, Sequence

from ..errors import RequestError
from .cache_slots import CacheSlot
from .logprobs import MAX_TOP_LOGPROBS, token_logprob
from .sampler import Sampler
from .sequence import Event, Failed, Finished, FinishReason, GenerationRequest, Piece, PromptLogprobs, TokenLogprob
from .text_stream import TextStream
from .work import LogitsRow

logger = logging.getLogger(__name__)

MAX_EQUAL_PIECES = 31  # Ollama's: a model that repeats itself more often than this will not stop by itself
CONTEXTS_PER_GENERATION = 10  # Ollama's limit of num_predict, in contexts

Listener = Callable[[Event], None]


class RepeatGuard:
    """Notices a run of pieces that are equal but for white space around them."""

    def __init__(self):
        self._last, self._count = None, 0

    def is_stuck(self, text: str) -> bool:
        """Whether this piece is one too many of its kind."""
        text = text.strip()
        self._count = self._count + 1 if text == self._last else 1
        self._last = text
        return self._count > MAX_EQUAL_PIECES


class Generation:
    """State of one request, from submit to its last event.

    pending: tokens still to be run, the prompt's first and later the one sampled last
    slot: its place in the cache, None while it waits for one
    reason: why it ended, None while it has not
    Raises RequestError for a request that cannot be run.
    """

    def __init__(self, request: GenerationRequest, listener: Listener, tokenizer, context_length: int, vocab_size: int):
        _check(request, vocab_size)
        self.request = request
        self.num_ctx = min(request.num_ctx or context_length, context_length)
        self.prompt, self.num_keep = _fit_prompt(request, tokenizer.adds_bos, self.num_ctx)
        self.pending: list[int] = []
        self.slot: CacheSlot | None = None
        self.reason: FinishReason | None = None
        self.cancelled = False  # set from any thread, acted upon by the engine's
        self.last_prefill = 0  # of the scheduler: the turn at which it last had some

        self._listener, self._tokenizer = listener, tokenizer
        self._sampler = Sampler(request.options, self.prompt, self.num_ctx)
        self._text = TextStream(request.stop)
        self._guard = RepeatGuard()
        self._scores: list[TokenLogprob] | None = [] if request.prompt_logprobs else None  # of the prompt, None once sent
        self._sampled: list[int] = []  # end tokens excluded
        self._num_sampled = 0  # end token included
        limit = CONTEXTS_PER_GENERATION * self.num_ctx
        self._max_sampled = request.num_predict if 0 < request.num_predict <= limit else limit
        self._started = self._first_token = self._last_token = 0.0

    # -- tokens to run

    @property
    def is_decoding(self) -> bool:
        """Whether all that is left to run is the token sampled last."""
        return self._num_sampled > 0 and len(self.pending) == 1

    def start(self, slot: CacheSlot) -> None:
        """Continue from a slot that holds a prefix of the prompt."""
        self.slot = slot
        self.pending = self.prompt[len(slot.tokens) :]

    def num_rows(self, num_tokens: int) -> int:
        """How many of the last of the next num_tokens want a row of logits."""
        return num_tokens if self._scores is not None else int(num_tokens == len(self.pending))

    def take(self, num_tokens: int) -> list[int]:
        """The next tokens to run; `have_run` says that they did."""
        if not self._started:
            self._started = time.perf_counter()
        return self.pending[:num_tokens]

    def have_run(self, num_tokens: int) -> None:
        self.slot.tokens.extend(self.pending[:num_tokens])
        del self.pending[:num_tokens]

    @property
    def context_is_full(self) -> bool:
        """Whether the token sampled last has no place in the context."""
        return self.is_decoding and len(self.slot.tokens) + 1 > self.num_ctx

    @property
    def num_discard(self) -> int:
        """Tokens behind num_keep that a shift drops: half of them, as Ollama does."""
        return max((self.num_ctx - self.num_keep) // 2, 1)

    # -- what comes out

    def take_rows(self, rows: Sequence[LogitsRow]) -> None:
        """Rows of the tokens that have just run. Emits what is ready; sets `reason` when the last token was sampled."""
        if self._scores is not None:
            following = self.prompt[len(self.slot.tokens) - len(rows) + 1 :]
            self._scores.extend(self._logprob(row, token_id) for row, token_id in zip(rows, following))
            if self.pending:
                return
            scores, self._scores = self._scores, None
            self._emit(PromptLogprobs(scores))
        self._sample(rows[-1])

    def _logprob(self, row: LogitsRow, token_id: int) -> TokenLogprob:
        return token_logprob(row, token_id, self.request.top_logprobs, self._tokenizer)

    def _sample(self, row: LogitsRow) -> None:
        constraint = self.request.constraint
        token_id = self._sampler.sample(row, constraint.allowed() if constraint else None)
        self._last_token = time.perf_counter()
        if self._num_sampled == 0:
            self._first_token = self._last_token
        self._num_sampled += 1
        if token_id in self._tokenizer.eos_ids:
            self._flush()
            self.reason = self.reason or FinishReason.STOP
            return

        self._sampler.accept(token_id)
        if constraint:
            constraint.accept(token_id)
        self._sampled.append(token_id)
        logprob = self._logprob(row, token_id) if self.request.logprobs else None
        piece = self._text.push(self._tokenizer.token_bytes(token_id), logprob)
        if piece:
            self._emit_piece(piece)
        if self._text.stopped:
            self.reason = self.reason or FinishReason.STOP
        elif self._num_sampled >= self._max_sampled:
            self.end_by_length()
        self.pending = [token_id]

    def end_by_length(self) -> None:
        self._flush()
        self.reason = self.reason or FinishReason.LENGTH

    def finish(self, reason: FinishReason) -> None:
        """Emit the last event of a generation that went well."""
        self.reason = reason
        self._emit(
            Finished(
                reason=reason,
                prompt_tokens=len(self.prompt),
                prompt_seconds=self._first_token - self._started if self._num_sampled else 0.0,
                tokens=self._num_sampled,
                decode_seconds=self._last_token - self._first_token,
                context=self.prompt + self._sampled[: self._text.num_sent],
            )
        )

    def fail(self, exception: Exception) -> None:
        """Emit the last event of a generation that did not go well."""
        self._emit(Failed(exception))

    def _flush(self) -> None:
        piece = self._text.flush()
        if piece:
            self._emit_piece(piece)

    def _emit_piece(self, piece: Piece) -> None:
        if self.reason is not None:
            return
        if piece.text and self._guard.is_stuck(piece.text):
            self.reason = FinishReason.LENGTH  # cut short, not brought to an end by the model
            return
        self._emit(piece)

    def _emit(self, event: Event) -> None:
        if self._listener is None:
            return
        try:
            self._listener(event)
        except Exception:
            logger.warning("a listener failed, its generation is cancelled", exc_info=True)
            self._listener = None
            self.cancelled = True


def _check(request: GenerationRequest, vocab_size: int) -> None:
    if len(request.prompt_tokens) == 0:
        raise RequestError("the prompt has no tokens; give it some text, or a beginning-of-text token")
    unknown = next((token for token in request.prompt_tokens if not 0 <= token < vocab_size), None)
    if unknown is not None:
        raise RequestError(f"token {unknown} is not in the model's vocabulary of {vocab_size}; was the context made with another model?")
    if not 0 <= request.top_logprobs <= MAX_TOP_LOGPROBS:
        raise RequestError(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}, not {request.top_logprobs}")


def _fit_prompt(request: GenerationRequest, adds_bos: bool, num_ctx: int) -> tuple[list[int], int]:
    """(the prompt, without its middle where it is longer than num_ctx; how many tokens at its start are kept for good)."""
    prompt = [int(token) for token in request.prompt_tokens]
    num_keep = len(prompt) if request.num_keep < 0 else request.num_keep
    num_keep += adds_bos  # the beginning-of-text token is kept besides
    num_keep = min(num_keep, num_ctx - 1)  # a shift must find something to drop
    excess = len(prompt) - num_ctx
    if excess > 0:
        if not request.truncate:
            raise RequestError("the input length exceeds the context length")
        logger.warning("the prompt of %d tokens is cut to the context of %d", len(prompt), num_ctx)
        prompt = prompt[:num_keep] + prompt[num_keep + excess :]
    return prompt, num_keep
