"""Runs with two Vulkan devices in one process (lavapipe and SwiftShader, named in GGML_VK_VISIBLE_DEVICES).

    python tests/support/run_two_devices.py MODEL.gguf

Prints one JSON object: where models were placed under several wishes, what they answered, and what engines that
share a device answered at once.
"""

import json
import os
import sys
import threading

from vkbackend.device import selection
from vkbackend.engine.request import Finished, GenerationRequest, Piece, SamplingOptions
from vkbackend.placement import gpus
from vkbackend.placement.opening import open_engine


def answer(opened, prompt="and the", num_predict=12) -> list:
    """Log-probabilities of a greedy answer that does not end by itself."""
    tokens = opened.tokenizer.encode(prompt)
    sampling = SamplingOptions(temperature=0, logit_bias=dict.fromkeys(opened.tokenizer.eos_ids, -1000.0))
    events = list(opened.engine.generate(GenerationRequest(tokens, sampling, num_predict=num_predict, logprobs=True)))
    assert isinstance(events[-1], Finished), events[-1]
    assert events[-1].tokens == num_predict
    return [round(token.logprob, 6) for event in events if isinstance(event, Piece) for token in event.logprobs]


def run(path, environment=None, **arguments) -> dict:
    os.environ.update(environment or {})
    opened = open_engine(path, context_length=128, **arguments)
    found = {
        "placement": opened.placement,
        "logprobs": answer(opened),
        "size": opened.size,
        "size_vram": opened.size_vram,
    }
    opened.close()
    for name in environment or {}:
        del os.environ[name]
    return found


def together(path, wishes: list[dict], turns: int = 4) -> list:
    """Engines open at the same time; each is asked by a thread of its own, again and again."""
    engines, answers = [open_engine(path, context_length=128, **each) for each in wishes], [[] for _ in wishes]

    def ask(engine, into):
        for _ in range(turns):
            into.append(answer(engine))

    threads = [threading.Thread(target=ask, args=pair) for pair in zip(engines, answers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    places = [engine.placement for engine in engines]
    for engine in engines:
        engine.close()
    return list(zip(places, answers))


def main(path):
    os.environ["OLLAMA_KV_CACHE_TYPE"] = "f32"
    named = os.environ.pop("GGML_VK_VISIBLE_DEVICES")
    unnamed = selection.survey()
    found = {
        "devices": [info.name for info in unnamed.devices],
        "usable unnamed": [info.name for info in unnamed.usable],
        "reasons unnamed": [unnamed.reasons[info.index] for info in unnamed.devices],
    }
    os.environ["GGML_VK_VISIBLE_DEVICES"] = named
    found |= {"usable": [info.name for info in selection.survey().usable], "sentence": selection.survey().sentence}
    for index in (0, 1):
        found[f"only {index}"] = run(path, {"GGML_VK_VISIBLE_DEVICES": str(index)})
        os.environ["GGML_VK_VISIBLE_DEVICES"] = named
    found["one"] = run(path)
    found["main_gpu"] = run(path, main_gpu=1)
    found["spread"] = run(path, {"OLLAMA_SCHED_SPREAD": "1"})
    found["three layers"] = run(path, num_gpu=3)
    found["cpu"] = run(path, num_gpu=0)
    found["open"] = sorted(device.info.name for device in selection._open.values())
    found["together"] = together(path, [{}, {}, {"main_gpu": 1}, {"main_gpu": 1}])
    first = selection.opened(gpus.usable()[0].id)
    selection.forget(first)
    found["after forgetting one"] = [device.info.name for device in selection._open.values()]
    found["forgotten"] = first.info.name
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
