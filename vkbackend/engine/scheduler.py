"""Scheduling: which waiting generation is admitted, which running one is preempted, which tokens the next step runs.

Admission is first come, first served, except that shorter prompts may overtake, a few times, one that does not find
enough pages. Every decoding generation runs its one token in every step, so a long prompt delays it by at most one
chunk. The rest of the chunk goes to prompts, the longest waiting first: prompts take turns chunk by chunk, so a short
one need not wait for the end of a long one. Embeddings that must run in one step wait until they are first in line,
and may then exceed the rest of the chunk. When pages run out, the generation admitted last is preempted.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .generation import Generation

DEFAULT_CHUNK = 128
MAX_OVERTAKEN = 8  # later requests admitted before a prompt that finds no room; after that, all wait for it


@dataclass(frozen=True)
class Share:
    """The next num_tokens of a generation, as part of a step."""

    generation: Generation
    num_tokens: int


class Scheduler:
    """Chooses generations and tokens; does not run anything.

    chunk: maximum number of tokens in a step. Decodes always run, even if they alone are more.
    scored_chunk: maximum number of scored tokens in a step; each takes a product with the whole vocabulary.
    """

    def __init__(self, chunk: int = DEFAULT_CHUNK, scored_chunk: int = DEFAULT_CHUNK):
        self._chunk = max(chunk, 1)
        self._scored_chunk = max(scored_chunk, 1)
        self._turn = 0
        self._num_admitted = 0

    def next_admission(self, waiting: Iterable[Generation], fits: Callable[[Generation], bool]) -> Generation | None:
        """The next generation to admit, or None. waiting: in order of arrival."""
        passed = []
        for generation in waiting:
            if fits(generation):
                for other in passed:
                    other.num_overtaken += 1
                self._admit(generation)
                return generation
            passed.append(generation)
            if generation.num_overtaken >= MAX_OVERTAKEN or len(passed) > MAX_OVERTAKEN:
                return None
        return None

    def _admit(self, generation: Generation) -> None:
        # At the end of the round, so that newcomers do not overtake a long prompt again and again.
        generation.last_prefill = self._turn
        if not generation.admission:  # a preempted one keeps its rank, so that only older ones preempt it
            self._num_admitted += 1
            generation.admission = self._num_admitted

    def victim(self, running: Sequence[Generation]) -> Generation:
        """The generation to preempt."""
        return max(running, key=lambda generation: generation.admission)

    def next_step(self, generations: Sequence[Generation]) -> list[Share]:
        """The tokens of the next step."""
        decodes = [Share(generation, 1) for generation in generations if generation.is_decoding]
        prefills = [generation for generation in generations if generation.num_pending and not generation.is_decoding]
        room = max(self._chunk - len(decodes), 1)
        scored_room = self._scored_chunk
        shares = []
        for generation in sorted(prefills, key=lambda generation: generation.last_prefill):
            num_tokens = generation.num_runnable(max(min(room, scored_room if generation.is_scored else room), 0))
            if num_tokens == 0 and not shares:
                num_tokens = generation.num_together
            if num_tokens == 0:
                continue
            self._turn += 1
            generation.last_prefill = self._turn
            shares.append(Share(generation, num_tokens))
            room -= num_tokens
            if generation.is_scored:
                scored_room -= num_tokens
        return decodes + shares
