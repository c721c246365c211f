"""Log-probabilities of 32 tokens at the driver's own lanes, the device taken for an integrated GPU; a program.

    VKBACKEND_AUTOTUNE=0 python lane_logprobs.py MODEL.gguf

Prints {"lanes": 64, "cpu_seconds": 30.1, "flavors": ["subgroup"], "tokens": [[logprob, {id: logprob, ...}], ...]}: of
the token of TEXT that follows, and of the five most probable ones. The tokens are given, so that a difference in one
does not change the next. Most of them are one step, like a prompt, and the last ones a step each, like an answer.
"""

import json
import resource
import sys

import wide_lanes

from vkbackend.device import kernel_cache
from vkbackend.device.choosing import choose
from vkbackend.device.context import Device
from vkbackend.device.discover import list_devices
from vkbackend.engine.contract import SequenceWork
from vkbackend.graph.step import LogitsRow
from vkbackend.session import Session

TEXT = (
    "In a shop at the end of the street an old man repaired clocks. Every morning he opened the door, swept the floor "
    "and wound the clocks that stood in the window, one after another."
)
NUM_TOKENS = 32
NUM_DECODED = 8
NUM_TOP = 5


def run(session: Session, tokens: list[int]) -> list[list]:
    """The log-probabilities of each token after the first and of the NUM_TOP largest before it."""
    runner = session.runner
    sequence = runner.open_sequence()
    targets = tokens[1:]
    num_prompt = len(targets) - NUM_DECODED
    work = [SequenceWork(sequence, tokens[:num_prompt], targets=targets[:num_prompt], candidates=True)]
    work += [SequenceWork(sequence, [token], outputs=1) for token in tokens[num_prompt:-1]]
    found = []
    for each in work:
        for row in runner.step([each]):
            assert isinstance(row, LogitsRow)
            target = targets[len(found)]
            logit = row.target_logit if row.is_scored else row.full()[target]
            assert logit is not None
            top = zip(row.ids[:NUM_TOP].tolist(), row.logits[:NUM_TOP], strict=True)
            found.append([float(logit - row.log_sum_exp), {id: float(each - row.log_sum_exp) for id, each in top}])
    return found


def note_kernels() -> tuple[set[int], set[str]]:
    """-> lanes and flavors of the kernels that are made from now on."""
    make = kernel_cache.KernelCache._make
    lanes: set[int] = set()
    flavors: set[str] = set()

    def noted(cache, dispatch, num_bindings):
        lanes.add(dispatch.subgroup_size)
        flavors.update(flavor[1:] for flavor in ("_subgroup", "_texel") if dispatch.shader.endswith(flavor))
        return make(cache, dispatch, num_bindings)

    kernel_cache.KernelCache._make = noted
    return lanes, flavors


def main() -> None:
    lanes, flavors = note_kernels()
    device = Device(wide_lanes.dressed(choose(list_devices()).device))
    session = Session(sys.argv[1], device, context_length=256, kv_type="f32")
    tokens = session.tokenizer.encode(TEXT)[: NUM_TOKENS + 1]
    assert len(tokens) == NUM_TOKENS + 1
    found = {"lanes": max(lanes, default=0), "flavors": sorted(flavors), "tokens": run(session, tokens)}
    found |= {"lanes": max(lanes), "flavors": sorted(flavors)}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps(found | {"cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1)}))


if __name__ == "__main__":
    main()
