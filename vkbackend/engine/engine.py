"""The engine: requests from any thread in, events on the engine's one thread out.

    engine = Engine(runner, tokenizer)
    for event in engine.generate(GenerationRequest(tokenizer.encode("Hello"))):
        ...

Each turn of the thread admits waiting requests, asks the scheduler for a step and submits it to the runner. While
the device works, the texts of the tokens before are made and sent; then the rows come, and a token is sampled from
each. The thread sleeps on a condition variable while there is nothing to do.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..errors import DeviceLost, RequestError, VkbackendError
from .contract import Runner, SequenceWork
from .generation import Generation, Listener
from .grammar import Grammars
from .request import (
    Embedding,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    PromptLogprobs,
    Purpose,
    TokenLogprob,
)
from .scheduler import DEFAULT_CHUNK, Scheduler

logger = logging.getLogger(__name__)

# tokens that everyone must have room for before another one is admitted, so that it need not soon give way again
GROWTH = 32


class Handle:
    """A submitted request, to be given up before its end."""

    def __init__(self, engine: "Engine", generation: Generation):
        self._engine, self._generation = engine, generation

    def cancel(self) -> None:
        """End it soon, with Finished("cancelled"); nothing happens when it has ended. From any thread."""
        self._engine._cancel(self._generation)

    def wake(self) -> None:
        """Its listener is full no longer. From any thread."""
        self._engine._look_again()


class Engine:
    """Runs the generations of one model. `failure` is the exception that ended the engine's thread, or None.

    Raises RequestError for a runner that has room for no sequence: nothing could ever be admitted.
    """

    def __init__(self, runner: Runner, tokenizer):
        if runner.max_sequences < 1:
            raise RequestError(
                f"the runner has room for {runner.max_sequences} sequences; make it with max_sequences of 1 or more"
            )
        self.runner, self.tokenizer = runner, tokenizer
        self.failure: Exception | None = None
        self._grammars = Grammars(tokenizer, runner.vocab_size)
        self._scheduler = Scheduler(
            getattr(runner, "prefill_chunk", DEFAULT_CHUNK), getattr(runner, "scored_chunk", DEFAULT_CHUNK)
        )
        self._running: list[Generation] = []  # of the engine's thread alone
        self._undelivered: list[
            Generation
        ] = []  # likewise: who has a token to deliver; those that ended with it run no more
        self._parked: list[Generation] = []  # likewise: those whose listener is full
        self._waiting: deque[Generation] = deque()  # guarded by _wake, as is _closing
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._thread.start()

    # -- for callers, on any thread

    def submit(self, request: GenerationRequest, listener: Listener) -> Handle:
        """Start a generation. listener(event) is called on the engine's thread: pieces, then one Finished or Failed.

        A listener must be quick; one that raises cancels its own generation. While it has an attribute `is_full`
        that is true, its generation pauses and leaves its place to others; after `Handle.wake` the engine looks
        again. With a `format` that is new, this may take a second. Raises RequestError for a request that cannot be
        run, GrammarError for its format, VkbackendError when the engine is closed or has failed.
        """
        if request.format:
            if request.constraint:
                raise RequestError("a request has a format and a constraint; give it one of them")
            request = replace(request, constraint=self._grammars.constraint(request.format))
        generation = Generation(request, listener, self.tokenizer, self.runner)
        with self._wake:
            if self.failure is not None:
                kind = DeviceLost if isinstance(self.failure, DeviceLost) else VkbackendError
                raise kind(f"the engine has stopped ({self.failure}); load the model again") from self.failure
            if self._closing:
                raise VkbackendError("the engine is closed; load the model again")
            self._waiting.append(generation)
            self._wake.notify()
        return Handle(self, generation)

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        """The request's events in order, the last one Finished; raises the exception of a Failed.

        Leaving the loop early cancels the generation. Not for use on the engine's own thread.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        handle = self.submit(request, events.put)
        try:
            while True:
                event = events.get()
                if isinstance(event, Failed):
                    raise event.exception
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            handle.cancel()

    def score(self, tokens: Sequence[int], top_logprobs: int = 0) -> list[TokenLogprob | None]:
        """How likely each token is after those before it, with the likeliest ones beside it; None for the first. No
        longer than the context.

        The whole text runs, in one pass; on a device, nothing of the vocabulary's size is read. Raises what
        `generate` raises.
        """
        return [
            None,
            *self._insight(
                GenerationRequest(tokens, purpose=Purpose.SCORE, top_logprobs=top_logprobs, truncate=False)
            ).logprobs,
        ]

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        """The text's last hidden state after the model's last norm, f32 (width,). No longer than the context. Raises
        what `generate` raises.
        """
        return self._insight(GenerationRequest(tokens, purpose=Purpose.EMBEDDING, truncate=False)).vector

    def _insight(self, request: GenerationRequest) -> PromptLogprobs | Embedding:
        first, *_ = self.generate(request)
        if isinstance(first, Finished):
            raise VkbackendError("the engine was closed before it came to an end; load the model again")
        return first

    @property
    def num_unfinished(self) -> int:
        """Generations that run or wait; exact between steps only."""
        return len(self._running) + len(self._waiting) + len(self._parked)

    def close(self) -> None:
        """Cancel what runs and waits, give the cache back and end the thread. The runner stays open. May be called
        twice.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _cancel(self, generation: Generation) -> None:
        with self._wake:
            generation.cancelled = True
            self._wake.notify()

    def _look_again(self) -> None:
        with self._wake:
            self._wake.notify()

    # -- the engine's thread

    def _main(self) -> None:
        try:
            while self._wait_for_work():
                self._finish_cancelled()
                self._park()
                self._admit()
                self._turn()
        except Exception as exception:
            if not isinstance(exception, DeviceLost):
                logger.exception("the engine stops on an unexpected error")
            self._end(exception)
        else:
            self._end(None)

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False at the end."""
        with self._wake:
            self._wake.wait_for(
                lambda: (
                    self._closing
                    or self._running
                    or self._waiting
                    or self._undelivered
                    or any(generation.cancelled or not generation.is_held for generation in self._parked)
                )
            )
            return not self._closing

    def _end(self, failure: Exception | None) -> None:
        """Give every generation its last event; none can come after this."""
        self._deliver()
        with self._wake:
            self._closing, self.failure = True, failure
            waiting = list(self._waiting)
            self._waiting.clear()
        parked, self._parked = self._parked, []
        for generation in (
            self._clear_running() + waiting + [generation for generation in parked if generation.ended is None]
        ):
            if failure is None:
                generation.finish(FinishReason.CANCELLED)
            else:
                generation.fail(failure)

    def _finish_cancelled(self) -> None:
        with self._wake:
            cancelled = [generation for generation in self._waiting if generation.cancelled]
            for generation in cancelled:
                self._waiting.remove(generation)
        parked, self._parked = self._parked, []
        for generation in parked:
            (cancelled if generation.cancelled else self._parked).append(generation)
        for generation in [generation for generation in self._running if generation.cancelled]:
            self._retire(generation)
            cancelled.append(generation)
        self._undelivered = [generation for generation in self._undelivered if generation not in cancelled]
        for generation in cancelled:
            generation.finish(FinishReason.CANCELLED)

    def _park(self) -> None:
        """Those whose listener is full give up their place: what they stored stays known while there is room for it,
        as after `_preempt`. Those whose listener has room again are the next to be admitted.
        """
        for generation in [generation for generation in self._running if generation.is_held]:
            self._retire(generation)
            self._parked.append(generation)
        if not self._parked:
            return
        resumed = [generation for generation in self._parked if not generation.is_held]
        self._parked = [generation for generation in self._parked if generation not in resumed]
        with self._wake:
            self._waiting.extendleft(reversed(resumed))

    def _admit(self) -> None:
        """Start waiting generations while there is room for them."""
        while len(self._running) < self.runner.max_sequences:
            with self._wake:
                waiting = list(self._waiting)
            generation = self._scheduler.next_admission(waiting, self._fits)
            if generation is None:
                return
            with self._wake:
                self._waiting.remove(generation)
            try:
                self._start(generation)
            except Exception as exception:
                generation.fail(exception)
            else:
                self._running.append(generation)

    def _fits(self, generation: Generation) -> bool:
        """Whether there are pages for its tokens, those that the others still have to run, and some more for each."""
        if not self._running:
            return True  # if it finds no room now, it never will: running it says why
        most = self.runner.context_length
        growth = {
            other.sequence_id: min(len(other.tokens) + GROWTH, most) - other.num_cached for other in self._running
        }
        return self.runner.has_room(growth, generation.reusable, min(len(generation.tokens) + GROWTH, most))

    def _start(self, generation: Generation) -> None:
        sequence_id = self.runner.open_sequence(generation.reusable)
        generation.start(sequence_id, self.runner.length(sequence_id))

    def _start_again(self, generation: Generation) -> None:
        """From what the cache knows of its tokens now."""
        self.runner.close_sequence(generation.sequence_id)
        self._start(generation)

    def _turn(self) -> None:
        """One step: submit it, deliver the tokens of the one before while it runs, wait for it, sample."""
        try:
            submitted = self._submit()
            self._deliver()
            outputs = self.runner.wait() if submitted else []
        except DeviceLost:
            raise
        except Exception as exception:
            logger.warning("a step failed: %s", exception, exc_info=not isinstance(exception, VkbackendError))
            self._deliver()
            for generation in self._clear_running():
                generation.fail(exception)
            return
        for generation, work in submitted:
            generation.have_run(len(work.tokens))
            if generation.ended is None and (work.num_outputs or not generation.num_pending):
                self._take(generation, work, outputs[: work.num_outputs])
            outputs = outputs[work.num_outputs :]
        for generation in [generation for generation in self._running if generation.ended is not None]:
            self._retire(generation)

    def _submit(self) -> list[tuple[Generation, SequenceWork]]:
        """Begin the next step, if there is anything to run. Where there are not enough pages for it, the youngest
        give way.
        """
        for generation in self._running:
            if generation.context_is_full:
                generation.shift()
                self._start_again(generation)
            elif generation.num_pending > 1 and self.runner.num_known(generation.reusable) > generation.num_cached:
                self._start_again(generation)  # another one has stored meanwhile what this one was about to compute
        shares = self._scheduler.next_step(self._running)
        while len(self._running) > 1 and not self.runner.has_room(
            {share.generation.sequence_id: share.num_tokens for share in shares}
        ):
            self._preempt(self._scheduler.victim(self._running))
            shares = self._scheduler.next_step(self._running)
        submitted = [(share.generation, share.generation.work(share.num_tokens)) for share in shares]
        if submitted:
            self.runner.submit([work for _, work in submitted])
        return submitted

    def _preempt(self, generation: Generation) -> None:
        """Take its pages away. It goes on later, at once where the cache then still knows its tokens."""
        logger.debug("the KV cache is full: a generation of %d tokens gives way", len(generation.tokens))
        self._retire(generation)
        with self._wake:
            self._waiting.appendleft(generation)

    def _take(self, generation: Generation, work: SequenceWork, outputs) -> None:
        try:
            generation.take_outputs(work, outputs)
        except DeviceLost:
            raise
        except Exception as exception:  # of its sampler or constraint: no one else's business
            self._retire(generation)
            generation.fail(exception)
            return
        self._undelivered.append(generation)  # whatever it has to tell

    def _deliver(self) -> None:
        """Emit what the last step's tokens have made ready, and the last event of those that end with it."""
        undelivered, self._undelivered = self._undelivered, []
        for generation in undelivered:
            try:
                generation.deliver()
            except Exception as exception:  # of its tokenizer
                generation.ended = FinishReason.CANCELLED
                generation.fail(exception)
            else:
                if generation.ended is None:
                    continue
                generation.finish(generation.ended)
            with self._wake:
                if generation in self._waiting:  # it had given way
                    self._waiting.remove(generation)
            if generation in self._parked:
                self._parked.remove(generation)

    def _retire(self, generation: Generation) -> None:
        """It runs no more; what it stored stays known, so that a following request can continue from there."""
        self._running.remove(generation)
        self.runner.close_sequence(generation.sequence_id)
        generation.stop()

    def _clear_running(self) -> list[Generation]:
        """Stop all, and forget the cache, after a failure that leaves its contents unknown, or at the end. -> those
        without a last event.
        """
        running = list(self._running)
        for generation in running:
            self._retire(generation)
        self.runner.forget()
        return [generation for generation in running if generation.ended is None]
