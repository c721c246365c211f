"""The engine: requests from any thread in, events on the engine's one thread out.

    engine = Engine(runner, tokenizer)
    for event in engine.generate(GenerationRequest(tokenizer.encode("Hello"))):
        ...

Each turn of the thread admits waiting requests to free cache slots, asks the scheduler for a step, has the runner compute
it and hands the rows to their generations. It sleeps on a condition variable while there is nothing to do.
"""

import logging
import queue
import threading
from collections import deque
from typing import Iterator

from ..errors import DeviceLost, OutOfMemory, RequestError, VkbackendError
from .cache_slots import CacheSlots
from .generation import Generation, Listener
from .scheduler import DEFAULT_CHUNK, Scheduler, Share
from .sequence import Event, Failed, Finished, FinishReason, GenerationRequest
from .work import LogitsRow, Runner, SequenceWork

logger = logging.getLogger(__name__)


class Handle:
    """A submitted request, to be given up before its end."""

    def __init__(self, engine: "Engine", generation: Generation):
        self._engine, self._generation = engine, generation

    def cancel(self) -> None:
        """End it soon, with Finished("cancelled"); nothing happens when it has ended. From any thread."""
        self._engine._cancel(self._generation)


class Engine:
    """Runs the generations of one model. `failure` is the exception that ended the engine's thread, or None.

    Raises RequestError for a runner that has room for no sequence: nothing could ever be admitted.
    """

    def __init__(self, runner: Runner, tokenizer):
        if runner.max_sequences < 1:
            raise RequestError(f"the runner has room for {runner.max_sequences} sequences; make it with max_sequences of 1 or more")
        self.runner, self.tokenizer = runner, tokenizer
        self.failure: Exception | None = None
        self._scheduler = Scheduler(getattr(runner, "prefill_chunk", DEFAULT_CHUNK))
        self._slots = CacheSlots(runner)
        self._running: list[Generation] = []  # of the engine's thread alone
        self._waiting: deque[Generation] = deque()  # guarded by _wake, as is _closing
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._thread.start()

    # -- for callers, on any thread

    def submit(self, request: GenerationRequest, listener: Listener) -> Handle:
        """Start a generation. listener(event) is called on the engine's thread: pieces, then one Finished or Failed.

        A listener must be quick; one that raises cancels its own generation. Raises RequestError for a request that cannot
        be run, VkbackendError when the engine is closed or has failed.
        """
        generation = Generation(request, listener, self.tokenizer, self.runner.context_length, self.runner.vocab_size)
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

    @property
    def num_unfinished(self) -> int:
        """Generations that run or wait; exact between steps only."""
        return len(self._running) + len(self._waiting)

    def close(self) -> None:
        """Cancel what runs and waits, give the cache back and end the thread. The runner stays open. May be called twice."""
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

    # -- the engine's thread

    def _main(self) -> None:
        try:
            while self._wait_for_work():
                self._finish_cancelled()
                self._admit()
                self._step()
        except Exception as exception:
            if not isinstance(exception, DeviceLost):
                logger.exception("the engine stops on an unexpected error")
            self._end(exception)
        else:
            self._end(None)

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False at the end."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._running or self._waiting)
            return not self._closing

    def _end(self, failure: Exception | None) -> None:
        """Give every generation its last event; none can come after this."""
        with self._wake:
            self._closing, self.failure = True, failure
            left = self._running + list(self._waiting)
            self._running = []
            self._waiting.clear()
        self._slots.drop_all()
        for generation in left:
            if failure is None:
                generation.finish(FinishReason.CANCELLED)
            else:
                generation.fail(failure)

    def _finish_cancelled(self) -> None:
        with self._wake:
            cancelled = [generation for generation in self._waiting if generation.cancelled]
            for generation in cancelled:
                self._waiting.remove(generation)
        for generation in [generation for generation in self._running if generation.cancelled]:
            self._retire(generation)
            cancelled.append(generation)
        for generation in cancelled:
            generation.finish(FinishReason.CANCELLED)

    def _admit(self) -> None:
        """Give waiting generations a slot, first come first served, while there are any."""
        while self._waiting:
            generation = self._waiting[0]
            try:
                slot = self._slots.acquire(generation.prompt, reuse=not generation.request.prompt_logprobs)
            except DeviceLost:
                raise
            except Exception as exception:
                self._next_waiting().fail(exception)
                continue
            if slot is None:
                return
            generation.start(slot)
            self._running.append(generation)
            self._next_waiting()

    def _next_waiting(self) -> Generation:
        with self._wake:
            return self._waiting.popleft()

    def _step(self) -> None:
        try:
            self._make_room()
            shares = self._scheduler.next_step(self._running)
            rows = self._run(shares) if shares else []
        except DeviceLost:
            raise
        except Exception as exception:
            logger.warning("a step failed: %s", exception, exc_info=not isinstance(exception, VkbackendError))
            self._fail_running(exception)
            return
        for share in shares:
            if share.num_rows:
                self._take_rows(share.generation, rows[: share.num_rows])
                rows = rows[share.num_rows :]

    def _make_room(self) -> None:
        """Shift, or end, the generations whose context is full."""
        for generation in [generation for generation in self._running if generation.context_is_full]:
            if generation.request.shift:
                self._shift(generation)
            else:
                generation.end_by_length()
                self._retire(generation)
                generation.finish(generation.reason)

    def _shift(self, generation: Generation) -> None:
        slot, keep, discard = generation.slot, generation.num_keep, generation.num_discard
        remaining = slot.tokens[keep + discard :]
        try:
            self.runner.shift(slot.sequence_id, keep, discard)
            slot.tokens[keep:] = remaining
        except NotImplementedError:  # a cache that cannot be moved: what remains runs again
            self.runner.truncate(slot.sequence_id, keep)
            del slot.tokens[keep:]
            generation.pending[:0] = remaining

    def _run(self, shares: list[Share]) -> list[LogitsRow]:
        work = [
            SequenceWork(share.generation.slot.sequence_id, share.generation.take(share.num_tokens), share.num_rows)
            for share in shares
        ]
        try:
            rows = self.runner.step(work)
        except OutOfMemory:
            # Finished conversations hold pages that running ones need. The step may have grown some sequences already.
            if not self._slots.drop_idle():
                raise
            for share in shares:
                slot = share.generation.slot
                self.runner.truncate(slot.sequence_id, len(slot.tokens))
            rows = self.runner.step(work)
        for share in shares:
            share.generation.have_run(share.num_tokens)
        return rows

    def _take_rows(self, generation: Generation, rows: list[LogitsRow]) -> None:
        try:
            generation.take_rows(rows)
        except DeviceLost:
            raise
        except Exception as exception:  # of its sampler or constraint: no one else's business
            self._retire(generation)
            generation.fail(exception)
            return
        if generation.reason is not None:
            self._retire(generation)
            generation.finish(generation.reason)

    def _retire(self, generation: Generation) -> None:
        """Free its slot before its last event, so that a listener's next request can continue from there."""
        self._running.remove(generation)
        self._slots.release(generation.slot)

    def _fail_running(self, exception: Exception) -> None:
        failed, self._running = self._running, []
        self._slots.drop_all()
        for generation in failed:
            generation.fail(exception)
