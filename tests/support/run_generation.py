"""A whole greedy generation, and a look at its prompt, on the first Vulkan device; the program that tests start on
some driver, under some layer.

In: a model file, a number of tokens. Out: one line of JSON: tokens generated, seconds, device, and the libraries of
validation layers that the loader brought in (so that a test knows that its layer was there). --plant makes one
harmless mistake before the model is loaded: whoever watches must have seen it at the end.
"""

import argparse
import json
import time

from vkbackend.device.choosing import choose
from vkbackend.device.context import Device
from vkbackend.device.discover import list_devices
from vkbackend.device.dispatch import SHADER_WRITE, STAGE_COMPUTE, STAGE_HOST, Recorder
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import PREFILL_CHUNK, ModelRunner
from vkbackend.gguf.reader import GGUFFile
from vkbackend.loading import load
from vkbackend.tokenizer import Tokenizer


def layers_in_process() -> list[str]:
    """Paths of the Vulkan layers that are mapped into this process."""
    with open("/proc/self/maps") as lines:
        return sorted({line.split()[-1] for line in lines if "libVkLayer" in line})


def generate(runner, prompt: list[int], num_tokens: int) -> list[int]:
    """The most likely token after each, `num_tokens` of them. End marks are taken like any other: the length is the
    test's to say.
    """
    sequence = runner.open_sequence()
    found, tokens = [], prompt
    for _ in range(num_tokens):
        (row,) = runner.step([SequenceWork(sequence, tokens, 1)])
        tokens = [int(row.ids[0])]
        found.extend(tokens)
    runner.close_sequence(sequence)
    return found


def look_at(runner, prompt: list[int]) -> None:
    """One step that brings all kinds of rows: logits, scores without and with candidates, a hidden state."""
    for candidates in (False, True):
        sequence = runner.open_sequence()
        *scores, row, hidden = runner.step([SequenceWork(sequence, prompt, 1, prompt[1:], candidates, hidden=True)])
        assert len(scores) == len(prompt) - 1 and len(row.full()) == runner.vocab_size and hidden.any()
        runner.close_sequence(sequence)


def plant_mistake(device) -> None:
    """Record, and never run, a barrier after shader writes of the host, which writes none
    (VUID-vkCmdPipelineBarrier-srcAccessMask-02815).
    """
    Recorder(device)._barrier(STAGE_HOST, SHADER_WRITE, STAGE_COMPUTE, SHADER_WRITE)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument(
        "--prompt", default="Once upon a time, in a land of hills and rivers, there lived a miller. " * 9
    )
    parser.add_argument("--kv-type", default="f16")
    parser.add_argument("--discrete", action="store_true")
    parser.add_argument("--plant", action="store_true")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    device = Device(choose(list_devices()).device, force_discrete=arguments.discrete)
    if arguments.plant:
        plant_mistake(device)
    prompt = Tokenizer.from_gguf(GGUFFile.open(arguments.model)).encode(arguments.prompt)
    runner = ModelRunner(
        load(arguments.model, device), kv_type=arguments.kv_type
    )  # sizes are the server's: a chunk of prefill is as large as there
    assert len(prompt) > PREFILL_CHUNK, "the prompt must fill a chunk"
    loaded = time.perf_counter()
    tokens = generate(runner, prompt, arguments.tokens)
    done = time.perf_counter()
    look_at(runner, prompt[:6])
    name = device.info.name
    del runner
    device.close()
    print(
        json.dumps(
            {
                "tokens": tokens,
                "device": name,
                "layers": layers_in_process(),
                "load_seconds": loaded - begin,
                "seconds": done - loaded,
            }
        )
    )


if __name__ == "__main__":
    main()
