"""A whole greedy generation on the first Vulkan device; the program that tests start on some driver, under some layer.

In: a model file, a number of tokens. Out: one line of JSON: tokens generated, seconds, device, and the libraries of validation layers
that the loader brought in (so that a test knows that its layer was there).
"""

import argparse
import json
import time

from vkbackend.device.context import Device
from vkbackend.device.discover import choose, list_devices
from vkbackend.engine.runner import ModelRunner
from vkbackend.engine.work import SequenceWork
from vkbackend.gguf.reader import GGUFFile
from vkbackend.models import load
from vkbackend.tokenizer import Tokenizer


def layers_in_process() -> list[str]:
    """Paths of the Vulkan layers that are mapped into this process."""
    with open("/proc/self/maps") as lines:
        return sorted({line.split()[-1] for line in lines if "libVkLayer" in line})


def generate(runner, prompt: list[int], num_tokens: int) -> list[int]:
    """The most likely token after each, `num_tokens` of them. End marks are taken like any other: the length is the test's to say."""
    sequence = runner.open_sequence()
    found, tokens = [], prompt
    for _ in range(num_tokens):
        row, = runner.step([SequenceWork(sequence, tokens, 1)])
        tokens = [int(row.ids[0])]
        found.extend(tokens)
    runner.close_sequence(sequence)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--discrete", action="store_true")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    device = Device(choose(list_devices()).device, force_discrete=arguments.discrete)
    prompt = Tokenizer.from_gguf(GGUFFile.open(arguments.model)).encode(arguments.prompt)
    runner = ModelRunner(load(arguments.model, device), context_length=256, prefill_chunk=8)
    loaded = time.perf_counter()
    tokens = generate(runner, prompt, arguments.tokens)
    done = time.perf_counter()
    name = device.info.name
    del runner
    device.close()
    print(json.dumps({"tokens": tokens, "device": name, "layers": layers_in_process(), "load_seconds": loaded - begin, "seconds": done - loaded}))


if __name__ == "__main__":
    main()
