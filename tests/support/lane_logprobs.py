"""Log-probabilities of 32 tokens at other subgroup sizes than 8 lanes, the device taken for an integrated GPU; a
program.

    python lane_logprobs.py MODEL.gguf 16 32 64     each size beside 8 lanes, on a patched llvmpipe
    python lane_logprobs.py MODEL.gguf              at the driver's own lanes

The first form prints {"largest": {"16": 1.5e-05, ...}, "kernels": {"16": [...], ...}, "cpu_seconds": 150.0}: the
largest difference of a log-probability, and the kernels with their lanes. Compared are the tokens of TEXT and the five
most probable ones before each. The tokens are given, so that a difference in one does not change the next. Most of them
are one step, like a prompt, and the last ones a step each, like an answer.
"""

import json
import resource
import sys
import tempfile
from pathlib import Path

import wide_lanes
from vulkan_drivers import LAVAPIPE, finish_all, start

from vkbackend import _native
from vkbackend.device import kernel_cache
from vkbackend.device.choosing import choose
from vkbackend.device.context import Device
from vkbackend.device.discover import list_devices
from vkbackend.device.dispatch import Dispatch
from vkbackend.engine.contract import SequenceWork
from vkbackend.graph.step import LogitsRow
from vkbackend.ops import matmul_kernels
from vkbackend.session import Session

TEXT = (
    "In a shop at the end of the street an old man repaired clocks. Every morning he opened the door, swept the floor "
    "and wound the clocks that stood in the window, one after another."
)
NUM_TOKENS = 32
NUM_DECODED = 4
NUM_TOP = 5
NARROW = 8


def tile(device: Device, num_tokens: int, num_rows: int, gated: bool) -> tuple[int, int]:
    """In place of `choose_tile`: four tokens share the loads of a weight, which take most of llvmpipe's time."""
    return (2, 4) if num_tokens > 1 else (2 if gated else 1, 1)


def note_kernels() -> set[str]:
    """-> "shader/lanes" of the kernels that are made from now on."""
    make = kernel_cache.KernelCache._make
    kernels: set[str] = set()

    def noted(self: kernel_cache.KernelCache, dispatch: Dispatch, num_bindings: int) -> _native.Kernel:
        kernels.add(f"{dispatch.shader}/{dispatch.subgroup_size}")
        return make(self, dispatch, num_bindings)

    kernel_cache.KernelCache._make = noted
    return kernels


def logprobs(session: Session, tokens: list[int]) -> list[list]:
    """[log-probability, {id: log-probability}] of each token after the first, and of the NUM_TOP largest before it."""
    runner = session.runner
    sequence = runner.open_sequence()
    targets = tokens[1:]
    num_prompt = len(targets) - NUM_DECODED
    work = [SequenceWork(sequence, tokens[:num_prompt], targets=targets[:num_prompt], candidates=True)]
    work += [SequenceWork(sequence, [token], outputs=1) for token in tokens[num_prompt:-1]]
    found: list[list] = []
    for each in work:
        for row in runner.step([each]):
            assert isinstance(row, LogitsRow)
            logit = row.target_logit if row.is_scored else row.full()[targets[len(found)]]
            assert logit is not None
            top = zip(row.ids[:NUM_TOP].tolist(), row.logits[:NUM_TOP].tolist(), strict=True)
            found.append([float(logit) - row.log_sum_exp, {id: value - row.log_sum_exp for id, value in top}])
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(f"{len(found)} tokens after {usage.ru_utime + usage.ru_stime:.1f} CPU s", file=sys.stderr)
    return found


def run(model: str) -> dict:
    """The tokens' log-probabilities and the kernels, at the driver's own lanes."""
    kernels = note_kernels()
    matmul_kernels.choose_tile = tile
    device = Device(wide_lanes.dressed(choose(list_devices()).device))
    session = Session(model, device, context_length=256, kv_type="f32")
    tokens = session.tokenizer.encode(TEXT)[: NUM_TOKENS + 1]
    assert len(tokens) == NUM_TOKENS + 1
    found = logprobs(session, tokens)
    return {"kernels": sorted(kernels), "tokens": found}


def compare(model: str, sizes: list[int]) -> dict:
    """The largest difference to NARROW lanes, for each of `sizes`."""
    manifest = LAVAPIPE.require().manifest
    assert manifest is not None
    with tempfile.TemporaryDirectory() as folder:
        driver = wide_lanes.make(Path(folder), manifest)
        running = [
            start(
                Path("lane_logprobs.py"),
                model,
                environment=wide_lanes.environment(driver, lanes) | {"VKBACKEND_AUTOTUNE": "0"},
            )
            for lanes in (NARROW, *sizes)
        ]
        narrow, *wide = finish_all(running, 860)
    return {
        "largest": {lanes: largest_difference(narrow["tokens"], each["tokens"]) for lanes, each in zip(sizes, wide)},
        "kernels": {lanes: each["kernels"] for lanes, each in zip(sizes, wide)},
    }


def largest_difference(tokens: list, others: list) -> float:
    """Of the log-probabilities of the tokens, and of the candidates that both have."""
    assert len(tokens) == len(others) == NUM_TOKENS
    pairs = [(logprob, other) for (logprob, _), (other, _) in zip(tokens, others, strict=True)]
    for (_, top), (_, other_top) in zip(tokens, others, strict=True):
        pairs += [(top[id], other_top[id]) for id in top.keys() & other_top.keys()]
    return max(abs(logprob - other) for logprob, other in pairs)


def main() -> None:
    model, *sizes = sys.argv[1:]
    found = compare(model, [int(size) for size in sizes]) if sizes else run(model)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps(found | {"cpu_seconds": round(sum(each.ru_utime + each.ru_stime for each in usage), 1)}))


if __name__ == "__main__":
    main()
