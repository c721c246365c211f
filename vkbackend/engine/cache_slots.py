"""Which runner sequence a new prompt continues: tokens stay cached after a generation, so that the next one may share them.

In: prompts. Out: a `CacheSlot` whose cached tokens are a prefix of the prompt. At most `runner.max_sequences` slots exist.
"""

import logging
from dataclasses import dataclass, field

from .work import Runner

logger = logging.getLogger(__name__)


@dataclass
class CacheSlot:
    """One open sequence of the runner. `tokens` are those in its cache, in order."""

    sequence_id: int
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    last_used: int = 0  # counts acquisitions, so that the least recently used slot has the least


def common_prefix(left: list[int], right: list[int]) -> int:
    """How many tokens at the start of both are equal."""
    length = min(len(left), len(right))
    if left[:length] == right[:length]:
        return length
    return next(index for index in range(length) if left[index] != right[index])


class CacheSlots:
    def __init__(self, runner: Runner):
        self._runner = runner
        self._slots: list[CacheSlot] = []
        self._num_acquired = 0

    def acquire(self, prompt: list[int], reuse: bool = True) -> CacheSlot | None:
        """A slot for this prompt, cut to the tokens they share (to none without reuse), or None while all are busy.

        The last token of the prompt is never counted as shared: it must run to give logits.
        Raises what the runner raises when it opens or cuts a sequence.
        """
        idle = [slot for slot in self._slots if not slot.busy]
        shared = {id(slot): common_prefix(slot.tokens, prompt[:-1]) if reuse else 0 for slot in idle}
        slot = max(idle, key=lambda slot: shared[id(slot)], default=None)
        # Taking a slot for a few shared tokens would throw away another conversation: half of either must be shared.
        if slot is None or shared[id(slot)] * 2 < min(len(slot.tokens), len(prompt)) or shared[id(slot)] == 0:
            if len(self._slots) < self._runner.max_sequences:
                slot = CacheSlot(self._runner.open_sequence())
                self._slots.append(slot)
            else:
                slot = min(idle, key=lambda slot: slot.last_used, default=None)
        if slot is None:
            return None
        keep = shared.get(id(slot), 0)
        if slot.tokens:
            self._runner.truncate(slot.sequence_id, keep)
            del slot.tokens[keep:]
        self._num_acquired += 1
        slot.busy, slot.last_used = True, self._num_acquired
        return slot

    def release(self, slot: CacheSlot) -> None:
        """The generation is over; its tokens stay cached."""
        slot.busy = False

    def drop_idle(self) -> bool:
        """Give the cache of all idle slots back to the runner; whether there was any."""
        idle = [slot for slot in self._slots if not slot.busy]
        for slot in idle:
            self._close(slot)
        return any(slot.tokens for slot in idle)

    def drop_all(self) -> None:
        """Forget every slot, after a failure that leaves the caches' contents unknown, or at the end."""
        for slot in list(self._slots):
            self._close(slot)

    def _close(self, slot: CacheSlot) -> None:
        self._slots.remove(slot)
        try:
            self._runner.close_sequence(slot.sequence_id)
        except Exception:  # the device may be gone; the slot is forgotten either way
            logger.warning("closing sequence %d failed", slot.sequence_id, exc_info=True)
