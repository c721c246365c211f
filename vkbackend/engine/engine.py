"""The engine: requests from any thread in, events on the engine's one thread out.

    engine = Engine(runner, tokenizer)
    for event in engine.generate(GenerationRequest(tokenizer.encode("Hello"))):
        ...

Each turn of the thread admits waiting requests, asks the scheduler for a step and submits it to the runner. While
the device works, the engine sends the text of the previous tokens; then it reads the rows of logits and samples a token
from each. The thread sleeps on a condition variable while there is nothing to do.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..errors import DeviceLost, RequestError, VkbackendError
from ..graph.step import StepOutput
from ..tokenizer import Tokenizer
from .contract import Runner, SequenceWork
from .generation import Generation, IsFull, Listener, never_full
from .grammar import Grammars
from .request import (
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    PromptEmbedding,
    PromptLogprobs,
    Purpose,
    ScoredToken,
)
from .scheduler import Scheduler

logger = logging.getLogger(__name__)

# Tokens that every running generation must have room for before another is admitted, so that the new one is not
# preempted again soon.
GROWTH = 32


class Handle:
    """A submitted request, which can be cancelled. Its methods may be called on any thread."""

    def __init__(self, engine: "Engine", generation: Generation):
        self._engine = engine
        self._generation = generation

    def cancel(self) -> None:
        """End the generation soon, with Finished("cancelled"). Does nothing if it has ended."""
        self._engine._cancel(self._generation)

    def wake(self) -> None:
        """Tell the engine that the listener is no longer full."""
        self._engine._look_again()


class Engine:
    """Runs the generations of one model.

    failure: the exception that ended the engine's thread, or None
    Raises RequestError if the runner has no room for a sequence.
    """

    def __init__(self, runner: Runner, tokenizer: Tokenizer):
        if runner.max_sequences < 1:
            raise RequestError(
                f"this runner allows {runner.max_sequences} sequences; create it with max_sequences >= 1"
            )
        self.runner = runner
        self.tokenizer = tokenizer
        self.failure: Exception | None = None
        self._grammars = Grammars(tokenizer, runner.vocab_size)
        self._scheduler = Scheduler(runner.prefill_chunk, runner.scored_chunk)
        # Used by the engine's thread only:
        self._running: list[Generation] = []
        self._undelivered: list[Generation] = []  # with a token to deliver; may have ended with it
        self._parked: list[Generation] = []  # with a full listener
        # Guarded by _wake:
        self._waiting: deque[Generation] = deque()
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._thread.start()

    # -- for callers, on any thread

    def submit(self, request: GenerationRequest, listener: Listener, is_full: IsFull = never_full) -> Handle:
        """Start a generation. The engine's thread calls listener(event): pieces, then one Finished or Failed.

        A listener must return quickly; one that raises cancels its own generation. While `is_full()`, also called
        on the engine's thread, is true, the generation pauses and leaves its place to others; `Handle.wake` makes the
        engine look again. Compiling a new `format` may take seconds. Raises RequestError for a request that cannot be
        run, GrammarError for its format, VkbackendError if the engine is closed or has failed.
        """
        if request.format:
            if request.constraint:
                raise RequestError("a request has a format and a constraint; give it one of them")
            request = replace(request, constraint=self._grammars.constraint(request.format))
        generation = Generation(request, listener, self.tokenizer, self.runner, is_full)
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
        """Yield the request's events in order, up to Finished. Raises the exception of a Failed event.

        Leaving the loop early cancels the generation. Do not call this on the engine's own thread.
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

    def score(self, tokens: Sequence[int], top_logprobs: int = 0) -> list[ScoredToken | None]:
        """The log-probability of each token given those before it, with the top_logprobs most likely alternatives; None
        for the first. The text must fit the context.

        Runs the whole text in one pass, without reading whole rows of logits from the device. Raises what `generate`
        raises.
        """
        found = self._insight(
            GenerationRequest(tokens, purpose=Purpose.SCORE, top_logprobs=top_logprobs, truncate=False)
        )
        assert isinstance(found, PromptLogprobs)
        return [None, *found.logprobs]

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        """The text's last hidden state after the model's final norm, f32 (width,). The text must fit the context.
        Raises what `generate` raises.
        """
        found = self._insight(GenerationRequest(tokens, purpose=Purpose.EMBEDDING, truncate=False))
        assert isinstance(found, PromptEmbedding)
        return found.vector

    def _insight(self, request: GenerationRequest) -> Event:
        """The only event before Finished of a request that samples nothing."""
        first, *_ = self.generate(request)
        if isinstance(first, Finished):
            raise VkbackendError("the engine was closed before the request was done; load the model again")
        return first

    @property
    def num_unfinished(self) -> int:
        """Number of running and waiting generations. Exact between steps only."""
        return len(self._running) + len(self._waiting) + len(self._parked)

    def close(self) -> None:
        """Cancel all generations, free the cache's pages and end the thread. The runner stays open. May be called
        twice.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
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
        """Sleep until there is something to do. Returns False if the engine is closing."""
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
        """Give every generation its last event, and accept no more requests."""
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
        """Move generations with a full listener out of the running ones. Those whose listener has room again are
        admitted next. As after `_preempt`, what they stored stays cached while there is room.
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
        """Whether there are pages for its tokens, the pending tokens of the others, and GROWTH more for each."""
        if not self._running:
            return True  # if it does not fit now, it never will; running it raises the reason
        most = self.runner.context_length
        growth = {each.sequence_id: min(len(each.tokens) + GROWTH, most) - each.num_cached for each in self._running}
        return self.runner.has_room(growth, generation.reusable, min(len(generation.tokens) + GROWTH, most))

    def _start(self, generation: Generation) -> None:
        sequence_id = self.runner.open_sequence(generation.reusable)
        generation.start(sequence_id, self.runner.length(sequence_id))

    def _start_again(self, generation: Generation) -> None:
        """Continue from the longest cached prefix of its tokens."""
        self.runner.close_sequence(generation.sequence_id, is_end=False)
        self._start(generation)

    def _turn(self) -> None:
        """Run one step: submit it, deliver the previous step's tokens while it runs, wait for it, sample."""
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
        """Begin the next step, if there is anything to run. Preempt the youngest generations if it needs more pages
        than there are.
        """
        for generation in self._running:
            if generation.context_is_full:
                generation.shift()
                self._start_again(generation)
            elif generation.num_pending > 1 and self._is_stored(generation):
                self._start_again(generation)
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

    def _is_stored(self, generation: Generation) -> bool:
        """Whether another generation has stored what this one is about to compute."""
        return self.runner.num_known(generation.reusable, generation.num_cached) > generation.num_cached

    def _preempt(self, generation: Generation) -> None:
        """Free the pages of a generation, which waits and later continues from what is still cached."""
        logger.debug("the KV cache is full: preempting a generation of %d tokens", len(generation.tokens))
        self._retire(generation)
        with self._wake:
            self._waiting.appendleft(generation)

    def _take(self, generation: Generation, work: SequenceWork, outputs: Sequence[StepOutput]) -> None:
        try:
            generation.take_outputs(work, outputs)
        except DeviceLost:
            raise
        except Exception as exception:  # its sampler or constraint failed, which concerns only this generation
            self._retire(generation)
            generation.fail(exception)
            return
        self._undelivered.append(generation)

    def _deliver(self) -> None:
        """Emit the events of the last step's tokens, and the last events of generations that ended."""
        undelivered, self._undelivered = self._undelivered, []
        for generation in undelivered:
            try:
                generation.deliver()
            except Exception as exception:  # its tokenizer failed
                generation.ended = FinishReason.CANCELLED
                generation.fail(exception)
            else:
                if generation.ended is None:
                    continue
                generation.finish(generation.ended)
            with self._wake:
                if generation in self._waiting:  # it was preempted
                    self._waiting.remove(generation)
            if generation in self._parked:
                self._parked.remove(generation)

    def _retire(self, generation: Generation) -> None:
        """Stop running a generation. What it stored stays cached, so that a later request can continue from there."""
        self._running.remove(generation)
        self.runner.close_sequence(generation.sequence_id)
        generation.stop()

    def _clear_running(self) -> list[Generation]:
        """Stop all generations and clear the cache, whose contents are unknown after a failure.

        Returns the generations that still need their last event.
        """
        running = list(self._running)
        for generation in running:
            self._retire(generation)
        self.runner.forget()
        return [generation for generation in running if generation.ended is None]
