"""Which tokens of which generations run in the next step.

Every generation that decodes runs its one token in every step, so a long prompt never holds it up for longer than one
chunk. What is left of the chunk goes to prompts, the one that waited longest first: prompts take turns chunk by chunk, so a
short one need not wait for the end of a long one.
"""

from dataclasses import dataclass
from typing import Sequence

from .generation import Generation

DEFAULT_CHUNK = 128


@dataclass(frozen=True)
class Share:
    """A generation's part in a step: its next num_tokens, and how many of the last of them want a row."""

    generation: Generation
    num_tokens: int
    num_rows: int


class Scheduler:
    """chunk: tokens of one step at most (decodes always run, even where they alone are more)."""

    def __init__(self, chunk: int = DEFAULT_CHUNK):
        self._chunk = max(chunk, 1)
        self._turn = 0

    def next_step(self, generations: Sequence[Generation]) -> list[Share]:
        decodes = [Share(generation, 1, 1) for generation in generations if generation.is_decoding]
        prefills = [generation for generation in generations if generation.pending and not generation.is_decoding]
        room = max(self._chunk - len(decodes), 1)
        shares = []
        for generation in sorted(prefills, key=lambda generation: generation.last_prefill):
            num_tokens = min(room, len(generation.pending))
            if num_tokens == 0:
                break
            self._turn += 1
            generation.last_prefill = self._turn
            shares.append(Share(generation, num_tokens, generation.num_rows(num_tokens)))
            room -= num_tokens
        return decodes + shares
