"""Compare models with recorded answers of other engines, on the CPU or on the first Vulkan device.

    python tests/support/compare_oracles.py PLACE CASE...    PLACE: cpu or device

In: folders of shared/oracles/text, each with model.gguf and cases.json. Out: one line of JSON: {case: {request:
{"recorded": d, "second": d, "steps": n}} or {"error": text}}, where d is the largest difference of the
log-probabilities that both list. The recorded tokens are fed, so that every step has the same past.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vkbackend.device.choosing import choose
from vkbackend.device.context import Device
from vkbackend.device.discover import list_devices
from vkbackend.engine.runner import ModelRunner, SequenceWork
from vkbackend.errors import VkbackendError
from vkbackend.loading import LoadedLayers, load
from vkbackend.tokenizer import Tokenizer

MISSING = 99.0  # the difference where a listed token is not among the most probable
CANDIDATES = 200  # most probable tokens whose texts are compared: tokens of the same text have small probabilities

Listed = list[list]  # [text, log-probability]


@dataclass
class Agreement:
    """Largest differences of one request. second: to the second engine with the same weights, None without one."""

    recorded: float
    second: float | None
    steps: int


def cases(folder: Path) -> dict[str, Path]:
    """All cases by name."""
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/cases.json"))}


def compare(case: Path, device: Device | None = None, model: LoadedLayers | None = None) -> dict[str, Agreement]:
    """Agreement of each request that was answered. model: the case's, loaded and changed by a test."""
    data = json.loads((case / "cases.json").read_text())
    model = model or load(case / "model.gguf", device)
    tokenizer = Tokenizer.from_gguf(model.gguf)
    second = data["second_opinion_f32_weights"] or data["second_opinion"] or {"responses": {}}
    return {
        each["name"]: _compare(model, tokenizer, each, second["responses"].get(each["name"]))
        for each in data["requests"]
        if each["status"] == 200
    }


def _compare(model: LoadedLayers, tokenizer: Tokenizer, request: dict, second: dict | None) -> Agreement:
    tokens = tokenizer.encode(request["request"]["prompt"])
    context = request["request"]["options"]["num_ctx"]
    response = request["response"]
    counted = response["prompt_eval_count"]  # None if the recorded engine broke off a repetition
    assert counted in (None, len(tokens)), f"{len(tokens)} tokens, recorded {counted}"
    found = Agreement(0.0, None if second is None else 0.0, 0)
    runner = ModelRunner(model, context_length=context, kv_type="f32", max_sequences=1)
    sequence = runner.open_sequence()
    fed = tokens
    for step, text in enumerate(response["tokens"]):
        if len(tokens) + step >= context:  # the context shifts here
            break
        listed = _listed(tokenizer, _step(runner, sequence, fed))
        found.recorded = max(found.recorded, _difference(listed, response["top_logprobs"][step]))
        if second is not None and found.second is not None and second["tokens"][:step] == response["tokens"][:step]:
            found.second = max(found.second, _difference(listed, second["top_logprobs"][step]))
        found.steps += 1
        if text not in listed:
            break
        fed = [listed[text][0]]
    runner.release()
    return found


def logprobs_after(model: LoadedLayers, tokens: list[int]) -> np.ndarray:
    """Log-probabilities of the token that follows `tokens`, f64 (vocabulary,)."""
    runner = ModelRunner(model, context_length=512, kv_type="f32", max_sequences=1)
    return _step(runner, runner.open_sequence(), tokens)


def _step(runner: ModelRunner, sequence: int, tokens: list[int]) -> np.ndarray:
    """Log-probabilities of the token that follows `tokens`, f64 (vocabulary,)."""
    for first in range(0, len(tokens), runner.prefill_chunk):
        output = runner.step([SequenceWork(sequence, tokens[first : first + runner.prefill_chunk], 1)])
    row = output[-1].full().astype(np.float64)
    return row - np.logaddexp.reduce(row)


def _listed(tokenizer: Tokenizer, logprobs: np.ndarray) -> dict[str, tuple[int, float]]:
    """{text: (token, log-probability)} of the most probable tokens."""
    best = np.argsort(-logprobs)[:CANDIDATES][::-1]
    return {tokenizer.decode([int(id)]).decode("utf-8", "replace"): (int(id), float(logprobs[id])) for id in best}


def _difference(listed: dict[str, tuple[int, float]], other: Listed) -> float:
    return max(abs(listed[text][1] - value) if text in listed else MISSING for text, value in other)


def main(place: str, *names: str) -> None:
    """Print the agreement of the cases `names`, which are folders."""
    device = Device(choose(list_devices()).device) if place == "device" else None
    found: dict[str, dict] = {}
    for name in names:
        try:
            found[Path(name).name] = {key: asdict(each) for key, each in compare(Path(name), device).items()}
        except (VkbackendError, ValueError, AssertionError) as error:
            found[Path(name).name] = {"error": f"{type(error).__name__}: {error}"}
    if device:
        device.kernels.save()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
