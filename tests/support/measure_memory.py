"""What a model takes in this process, beside its memory plan; a program.

    python measure_memory.py FILE NUM_GPU NUM_CTX

Prints as JSON: planned (bytes of the plan, by kind), taken (private bytes at the peak, less those before). The cache is
filled and the largest step is run, so that all memory that was allocated is also used.
"""

import json
import sys
import threading

import numpy as np

from vkbackend import settings
from vkbackend.device import selection
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import ModelRunner
from vkbackend.graph.split_executor import SplitExecutor
from vkbackend.loading import read
from vkbackend.ops.q8_cache import Q8Cache
from vkbackend.placement import placing
from vkbackend.placement.settling import Request

SECONDS = 0.01  # between two looks at the memory


def private_bytes() -> int:
    """Anonymous and shared memory of this process, without mapped files."""
    with open("/proc/self/smaps_rollup") as lines:
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.count(" kB")}
    return 1024 * (sizes["Pss_Anon"] + sizes["Pss_Shmem"])


class Peak:
    """The most private bytes while the context lasts."""

    def __enter__(self):
        self.num_bytes = private_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(SECONDS):
            self.num_bytes = max(self.num_bytes, private_bytes())

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def fill_cache(runner: ModelRunner) -> None:
    """Write every page of the cache."""
    storage = runner.storage
    caches = [part.cache for part in storage.parts] if isinstance(storage, SplitExecutor) else [storage]
    for cache in caches:
        for tensor in (each for pair in cache.layers.values() for each in pair):
            if tensor.buffer is not None:
                tensor.buffer.array(np.uint8, (tensor.buffer.num_bytes,))[:] = 0
            elif isinstance(tensor.array, Q8Cache):
                tensor.array.codes[...] = 0
                tensor.array.scales[...] = 0
            else:
                tensor.array[...] = 0


def run_largest_step(runner: ModelRunner) -> None:
    """A step with as many tokens, rows of logits and scored rows as one part of a step has."""
    tokens = [5] * runner.limits.max_tokens
    scored = min(runner.limits.max_scored, len(tokens))
    work = SequenceWork(
        runner.open_sequence(), tokens, min(runner.limits.max_outputs, len(tokens)), targets=[7] * scored
    )
    runner.step([work])


def main(path: str, num_gpu: int, num_ctx: int) -> None:
    """Print the plan and what the process took."""
    for gpu in placing.usable() if num_gpu else []:
        selection.opened(gpu.id)  # a driver takes memory of its own
    request = Request(read(path), num_ctx, 1, settings.get("OLLAMA_KV_CACHE_TYPE"), num_gpu=num_gpu)
    plan = placing.plan(request)
    before = private_bytes()
    with Peak() as peak:
        placed = placing.place(request)
        loaded = private_bytes()
        fill_cache(placed.runner)
        run_largest_step(placed.runner)
    planned = {
        kind: sum(getattr(place, kind) for place in plan.places)
        for kind in ("weights", "mapped", "cache", "scratch", "loading", "private")
    }
    taken = {"loaded": loaded - before, "peak": peak.num_bytes - before, "after": private_bytes() - before}
    print(json.dumps({"planned": planned, "taken": taken, "places": [place.name for place in plan.places]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
