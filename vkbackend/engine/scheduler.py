"""Who runs: which waiting generation is admitted, which running one gives way, and which tokens the next step holds.

Admission is first come, first served, except that a prompt for which there are not enough pages may be overtaken a
few times by shorter ones. Every generation that decodes runs its one token in every step, so a long prompt never
holds it up for longer than one chunk. What is left of the chunk goes to prompts, the one that waited longest first:
prompts take turns chunk by chunk, so a short one need not wait for the end of a long one. Embeddings that must run in
one step wait until they are first, and may then be more than what is left of the chunk. Where pages run out, the
generation admitted last gives way.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .generation import Generation

DEFAULT_CHUNK = 128
MAX_OVERTAKEN = 8  # so many later ones may be admitted before a prompt that finds no room, then all wait for it


@dataclass(frozen=True)
class Share:
    """A generation's part in a step: its next num_tokens."""

    generation: Generation
    num_tokens: int


class Scheduler:
    """chunk: tokens of one step at most (decodes always run, even where they alone are more); scored_chunk: those of
    them that are scored, each of which takes a product with the whole vocabulary.
    """

    def __init__(self, chunk: int = DEFAULT_CHUNK, scored_chunk: int = DEFAULT_CHUNK):
        self._chunk, self._scored_chunk = max(chunk, 1), max(scored_chunk, 1)
        self._turn = 0
        self._num_admitted = 0

    def next_admission(self, waiting: Iterable[Generation], fits: Callable[[Generation], bool]) -> Generation | None:
        """Whom to admit now, None where nobody may be. `waiting` in the order in which they came."""
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
        generation.last_prefill = (
            self._turn
        )  # at the end of the round: newcomers do not go before a long prompt again and again
        if not generation.admission:  # one that gave way keeps its rank, so that it does so for older ones only
            self._num_admitted += 1
            generation.admission = self._num_admitted

    def victim(self, running: Sequence[Generation]) -> Generation:
        """Who gives its pages to the others."""
        return max(running, key=lambda generation: generation.admission)

    def next_step(self, generations: Sequence[Generation]) -> list[Share]:
        decodes = [Share(generation, 1) for generation in generations if generation.is_decoding]
        prefills = [generation for generation in generations if generation.num_pending and not generation.is_decoding]
        room, scored_room = max(self._chunk - len(decodes), 1), self._scored_chunk
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
