"""One request in the engine: which of its tokens are still to run, and what each row of logits becomes.

In: a request, then the runner's outputs for it. Out: events to its listener. A row is processed in two halves:
`take_outputs` samples the next token, which the next step needs; `deliver` turns that token into text and events while
the device runs the step. This module uses only the limits of the runner and works on any thread.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import RequestError
from ..graph.step import LogitsRow, StepOutput
from ..tokenizer import Tokenizer
from .contract import Runner, SequenceWork
from .logprobs import logit_of, token_logprob
from .prefix_cache import Prefix
from .prompt import Cell, EmbeddingPart, PartLayout, lay_out, token_ids
from .request import (
    MAX_TOP_LOGPROBS,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Piece,
    PromptEmbedding,
    PromptLogprobs,
    Purpose,
    ScoredToken,
)
from .sampler import Sampler
from .text_stream import TextStream

logger = logging.getLogger(__name__)

MAX_EQUAL_PIECES = 31  # Ollama's limit: a model that repeats a piece more often will not stop by itself
CONTEXTS_PER_GENERATION = 10  # Ollama's upper limit of num_predict, in contexts

Listener = Callable[[Event], None]
IsFull = Callable[[], bool]  # whether the listener should get no more events for now


def never_full() -> bool:
    """The `IsFull` of listeners that take every event at once."""
    return False


class RepeatGuard:
    """Detects a run of pieces that are equal except for surrounding white space."""

    def __init__(self) -> None:
        self._last: str | None = None
        self._count = 0

    def is_stuck(self, text: str) -> bool:
        """Whether this piece makes the run of equal pieces too long."""
        text = text.strip()
        self._count = self._count + 1 if text == self._last else 1
        self._last = text
        return self._count > MAX_EQUAL_PIECES


@dataclass
class Sampled:
    """A sampled token that is not yet delivered.

    logit: its raw logit, if the request has `logprobs`
    scores: the prompt's log-probabilities, with the first token of a request that has `prompt_logprobs`
    """

    token_id: int
    row: LogitsRow
    logit: float | None
    scores: list[ScoredToken] | None


class Generation:
    """State of one request, from submit to its last event.

    tokens: the cells of its context: the prompt, then the sampled tokens
    num_cached: the number of cells that have run
    ended: the reason for the end; None while more tokens are to come
    Raises RequestError for a request that cannot be run.
    """

    def __init__(
        self,
        request: GenerationRequest,
        listener: Listener,
        tokenizer: Tokenizer,
        runner: Runner,
        is_full: IsFull = never_full,
    ):
        self.request = request
        self.num_ctx = min(request.num_ctx or runner.context_length, runner.context_length)
        _check(request, runner, self.num_ctx)
        self.prompt, self._parts, self.num_keep = _fit_prompt(request, tokenizer.adds_bos, self.num_ctx)
        self.tokens = list(self.prompt)
        self._prefix = Prefix(self.tokens)
        self.num_cached = 0
        self._sequence_id: int | None = None
        self.ended: FinishReason | None = None
        self.cancelled = False  # set by any thread, handled by the engine's
        # Kept by the scheduler:
        self.admission = 0  # rank among the admitted, 0 before the first admission
        self.last_prefill = 0  # its last turn
        self.num_overtaken = 0  # later requests admitted before it

        self._listener: Listener | None = listener
        self._is_full = is_full
        self._tokenizer = tokenizer
        self._sampler = Sampler(request.options, token_ids(self.prompt), self.num_ctx)
        self._text = TextStream(request.stop)
        self._guard = RepeatGuard()
        is_scored = request.prompt_logprobs or request.purpose is Purpose.SCORE
        self._scores: list[ScoredToken] | None = [] if is_scored else None  # of the prompt; None once complete
        self._insight: PromptLogprobs | PromptEmbedding | None = None  # result of a request that samples nothing
        self._fresh: Sampled | None = None
        self._end: ScoredToken | None = None
        self._sampled: list[int] = []  # end tokens excluded
        self._num_sampled = 0  # end token included
        limit = CONTEXTS_PER_GENERATION * self.num_ctx
        self._max_sampled = request.num_predict if 0 < request.num_predict <= limit else limit
        self._started = self._first_token = self._last_token = 0.0

    # -- tokens to run

    @property
    def num_pending(self) -> int:
        """The number of cells that have not run yet."""
        return len(self.tokens) - self.num_cached

    @property
    def is_decoding(self) -> bool:
        """Whether only the last sampled token is left to run."""
        return self._num_sampled > 0 and self.num_pending == 1

    @property
    def is_scored(self) -> bool:
        """Whether the tokens of its prompt are scored as they run."""
        return self._scores is not None

    def num_runnable(self, room: int) -> int:
        """The number of pending cells that a step with room for `room` may take. 0 if the next ones must run in one
        step and need more room: see `num_together`.
        """
        return self._parts.num_uncut(self.num_cached, min(room, self.num_pending))

    @property
    def num_together(self) -> int:
        """The number of next pending cells that must run in one step."""
        return self._parts.num_together(self.num_cached)

    @property
    def reusable(self) -> Prefix:
        """The cells that may be taken from the cache: all but the last, whose logits are needed; no cells of a scored
        prompt.
        """
        self._prefix.length = 0 if self.is_scored else len(self.tokens) - 1
        return self._prefix

    @property
    def sequence_id(self) -> int:
        """The runner's sequence, between `start` and `stop`."""
        assert self._sequence_id is not None, "this generation has no sequence"
        return self._sequence_id

    @property
    def is_held(self) -> bool:
        """Whether its listener is full."""
        return self._listener is not None and self._is_full()

    def start(self, sequence_id: int, num_cached: int) -> None:
        """Continue in a sequence that holds the first num_cached cells."""
        self._sequence_id = sequence_id
        self.num_cached = num_cached
        if self._scores is not None:
            self._scores = []

    def stop(self) -> None:
        """Forget the sequence, which is closed. `start` may follow."""
        self._sequence_id = None
        self.num_cached = 0

    def work(self, num_tokens: int) -> SequenceWork:
        """The next cells to run, and the outputs wanted for them. Call `have_run` once they have run."""
        if not self._started:
            self._started = time.perf_counter()
        first = self.num_cached
        purpose = self.request.purpose
        is_last = num_tokens == self.num_pending
        targets = token_ids(self.prompt[first + 1 : first + num_tokens + 1]) if self.is_scored else ()
        return SequenceWork(
            self.sequence_id,
            self.tokens[first : first + num_tokens],
            int(is_last and purpose is Purpose.TEXT),
            targets,
            len(targets) > 0 and self.request.top_logprobs > 0,
            is_last and purpose is Purpose.EMBEDDING,
            self._parts.inputs(first, first + num_tokens),
        )

    def have_run(self, num_tokens: int) -> None:
        """Count num_tokens more cells as run."""
        self.num_cached += num_tokens

    @property
    def context_is_full(self) -> bool:
        """Whether the last sampled token does not fit the context."""
        return len(self.tokens) > self.num_ctx

    def shift(self) -> None:
        """Drop half of the cells after num_keep, as Ollama does. The others must run again: their positions change."""
        num_discard = max((self.num_ctx - self.num_keep) // 2, 1)
        first, last = self._parts.widened(self.num_keep, self.num_keep + num_discard)
        del self.tokens[first:last]
        self._prefix = Prefix(self.tokens)
        self._parts, self.num_keep = self._parts.without(first, last), first

    # -- what comes out

    def take_outputs(self, work: SequenceWork, outputs: Sequence[StepOutput]) -> None:
        """Take the outputs of the cells that have just run; once all have run, sample the next token.

        Sets `ended` if no token follows. Raises VkbackendError if no token can be sampled.
        """
        for row, token_id in zip(outputs, work.targets):
            assert isinstance(row, LogitsRow) and self._scores is not None
            self._scores.append(self._logprob(row, token_id, row.target_logit))
        if self.num_pending:
            return
        if self.request.purpose is Purpose.TEXT:
            row = outputs[-1]
            assert isinstance(row, LogitsRow)
            self._sample(row)
            return
        self._first_token = self._last_token = time.perf_counter()
        if self.request.purpose is Purpose.EMBEDDING:
            vector = outputs[-1]
            assert not isinstance(vector, LogitsRow)
            self._insight = PromptEmbedding(vector)
        else:
            self._insight = PromptLogprobs(self._scores or [])
        self.ended = FinishReason.STOP

    def _sample(self, row: LogitsRow) -> None:
        constraint = self.request.constraint
        token_id = self._sampler.sample(row, constraint.allowed() if constraint else None)
        self._last_token = time.perf_counter()
        if self._num_sampled == 0:
            self._first_token = self._last_token
        self._num_sampled += 1
        self._fresh = Sampled(token_id, row, logit_of(row, token_id) if self.request.logprobs else None, self._scores)
        self._scores = None
        if token_id in self._tokenizer.eos_ids:
            self.ended = FinishReason.STOP
            return
        self._sampler.accept(token_id)
        if constraint:
            constraint.accept(token_id)
        self.tokens.append(token_id)
        if self._num_sampled >= self._max_sampled or self.context_is_full and not self.request.shift:
            self.ended = FinishReason.LENGTH

    def deliver(self) -> None:
        """Emit the events of the last sampled token. Sets `ended` at a stop string or if the text repeats itself.

        Tokens that ran after it are then not part of the answer.
        """
        if self._insight is not None:
            self._emit(self._insight)
        fresh, self._fresh = self._fresh, None
        if fresh is None:
            return
        if fresh.scores is not None:
            self._emit(PromptLogprobs(fresh.scores))
        is_stuck = False
        logprob = self._logprob(fresh.row, fresh.token_id, fresh.logit) if self.request.logprobs else None
        if fresh.token_id in self._tokenizer.eos_ids:
            self._end = logprob
        else:
            self._sampled.append(fresh.token_id)
            is_stuck = self._emit_piece(self._text.push(self._tokenizer.token_bytes(fresh.token_id), logprob))
        if self._text.stopped:
            self.ended = FinishReason.STOP
        elif self.ended is not None and not is_stuck:
            is_stuck = self._emit_piece(self._text.flush())
        if is_stuck:
            self.ended = FinishReason.LENGTH  # cut off, not ended by the model
        if self.ended is None and self.request.constraint:
            self.request.constraint.allowed()  # computed now, while the device works on the next token's logits

    def _logprob(self, row: LogitsRow, token_id: int, logit: float | None = None) -> ScoredToken:
        return token_logprob(row, token_id, self.request.top_logprobs, self._tokenizer, logit)

    def finish(self, reason: FinishReason) -> None:
        """Emit the last event of a successful generation."""
        self._emit(
            Finished(
                reason=reason,
                prompt_tokens=len(self.prompt),
                prompt_seconds=self._first_token - self._started if self._first_token else 0.0,
                tokens=self._num_sampled,
                decode_seconds=self._last_token - self._first_token,
                context=token_ids(self.prompt) + self._sampled[: self._text.num_sent],
                end=self._end,
            )
        )

    def fail(self, exception: Exception) -> None:
        """Emit the last event of a failed generation."""
        self._emit(Failed(exception))

    def _emit_piece(self, piece: Piece | None) -> bool:
        """Emit a piece, if there is one. Returns True if it was held back because it repeats too often."""
        if piece is None:
            return False
        if piece.text and self._guard.is_stuck(piece.text):
            return True
        self._emit(piece)
        return False

    def _emit(self, event: Event) -> None:
        if self._listener is None:
            return
        try:
            self._listener(event)
        except Exception:
            logger.warning("cancelling a generation whose listener failed", exc_info=True)
            self._listener = None
            self.cancelled = True


def _check(request: GenerationRequest, runner: Runner, num_ctx: int) -> None:
    if len(request.prompt) == 0:
        raise RequestError("the prompt has no tokens; give it some text, or a beginning-of-text token")
    vocab_size = runner.vocab_size
    for item in request.prompt:
        if isinstance(item, EmbeddingPart):
            _check_part(item, request, runner, num_ctx)
        elif not 0 <= item < vocab_size:
            raise RequestError(
                f"token {item} is not in the model's vocabulary of {vocab_size}; was the context made with another "
                f"model?"
            )
    if not 0 <= request.top_logprobs <= MAX_TOP_LOGPROBS:
        raise RequestError(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}, not {request.top_logprobs}")


def _check_part(part: EmbeddingPart, request: GenerationRequest, runner: Runner, num_ctx: int) -> None:
    if request.prompt_logprobs or request.purpose is Purpose.SCORE:
        raise RequestError("a prompt with embeddings cannot be scored: only tokens have log-probabilities")
    if part.rows.shape[1] != runner.width:
        raise RequestError(f"embeddings are {part.rows.shape[1]} wide; the model takes {runner.width}")
    if len(part) > num_ctx:
        raise RequestError(f"{len(part)} rows of embeddings exceed the context length of {num_ctx}; raise num_ctx")
    if part.is_whole and len(part) > runner.max_part:
        raise RequestError(
            f"{len(part)} rows of embeddings must run in one step, but a step holds at most {runner.max_part} rows; "
            f"open the model with a larger max_part"
        )


def tokens_kept(num_keep: int, num_tokens: int, adds_bos: bool, num_ctx: int) -> int:
    """The number of tokens at the start of a prompt of num_tokens that a cut or a shift keeps. A num_keep below 0
    keeps all.
    """
    wanted = (num_tokens if num_keep < 0 else num_keep) + adds_bos  # the beginning-of-text token is kept, too
    return min(wanted, num_ctx - 1)  # a shift must have something to drop


def _fit_prompt(request: GenerationRequest, adds_bos: bool, num_ctx: int) -> tuple[list[Cell], PartLayout, int]:
    """Cut the middle of a prompt that is longer than num_ctx. A part that does not fit is dropped as a whole.

    Returns the cells, the layout of the parts and the number of cells at the start that shifts keep.
    """
    prompt, parts = lay_out(request.prompt)
    num_keep = tokens_kept(request.num_keep, len(prompt), adds_bos, num_ctx)
    excess = len(prompt) - num_ctx
    if excess > 0:
        if not request.truncate:
            raise RequestError("the input length exceeds the context length")
        logger.warning("cutting a prompt of %d tokens to the context of %d", len(prompt), num_ctx)
        num_keep, last = parts.widened(num_keep, num_keep + excess)
        prompt, parts = prompt[:num_keep] + prompt[last:], parts.without(num_keep, last)
        if not prompt:
            raise RequestError(
                f"the embeddings of the prompt do not fit the context length of {num_ctx}; raise num_ctx"
            )
    return prompt, parts, num_keep
