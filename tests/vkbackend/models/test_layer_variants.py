"""Layers that no recorded model has, beside llama.cpp on the same file; positions that are learned."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from layer_variants import VARIANTS
from places import SUPPORT
from shared_data import shared
from vulkan_drivers import missing

from vkbackend.engine.runner import ModelRunner, SequenceWork
from vkbackend.loading import load

PROMPTS = [[17, 40, 5, 99, 230, 61], [(7 * at * at + 3 * at) % 290 + 5 for at in range(70)]]
# To a second engine in float32; it looks GELU up in a table of float16 values.
LARGEST, LARGEST_OF_GELU = 2e-3, 0.01


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """name -> the file, and what llama.cpp answers to `PROMPTS`."""
    if importlib.util.find_spec("xllamacpp") is None:
        missing("xllamacpp is not installed (bash scripts/setup.sh --tests installs it)")
    folder = tmp_path_factory.mktemp("variants")
    paths = {name: variant.write(folder / f"{at}.gguf") for at, (name, variant) in enumerate(VARIANTS.items())}
    done = subprocess.run(
        [sys.executable, SUPPORT / "llama_cpp_top.py"],
        input=json.dumps({str(path): PROMPTS for path in paths.values()}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout)
    return {name: (path, answers[str(path)]) for name, path in paths.items()}


def logits(model, prompts, **options) -> list[np.ndarray]:
    """Logits after each prompt, all of which run in the same steps."""
    runner = ModelRunner(model, context_length=256, kv_type="f32", max_sequences=len(prompts), **options)
    sequences = [runner.open_sequence() for _ in prompts]
    found = [np.empty(0)] * len(prompts)
    chunk = max(runner.prefill_chunk // len(prompts), 1)
    for first in range(0, max(map(len, prompts)), chunk):
        parts = [(at, prompt[first : first + chunk]) for at, prompt in enumerate(prompts) if first < len(prompt)]
        rows = runner.step([SequenceWork(sequences[at], part, 1) for at, part in parts])
        for (at, _), row in zip(parts, rows):
            found[at] = row.full()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("place", ["exact_cpu", "on_ggml", "device"])
def test_variants_of_layers_agree_with_llama_cpp(answered, place, request):
    device = request.getfixturevalue(place)
    for name, (path, answers) in answered.items():
        model = load(path, device if place == "device" else None)
        has_gelu = "gelu" in model.config.activation + model.config.gate
        largest = LARGEST_OF_GELU if has_gelu else LARGEST
        for found, expected in zip(logits(model, PROMPTS), answers):
            exact = found.astype(np.float64)
            exact -= np.logaddexp.reduce(exact)
            for token, value in expected:
                assert abs(exact[token] - value) <= largest, (name, token)


@pytest.mark.parametrize("name", ["gpt2", "stablelm"])
def test_bits_do_not_depend_on_the_company(path_with_bits, name):
    """Learned positions and layer norms of tokens of several sequences in one step, in chunks of any size."""
    model = load(shared(f"oracles/text/{name}") / "model.gguf", path_with_bits)
    together = logits(model, PROMPTS)
    for prompt, expected in zip(PROMPTS, together):
        for chunk in (512, 7):
            (alone,) = logits(model, [prompt], prefill_chunk=chunk)
            assert alone.tobytes() == expected.tobytes()


def test_a_context_ends_with_the_learned_positions():
    model = load(shared("oracles/text/gpt2") / "model.gguf", None)
    assert ModelRunner(model, context_length=4096).context_length == 512
    rotating = load(shared("oracles/text/starcoder2") / "model.gguf", None)
    assert ModelRunner(rotating, context_length=8192).context_length == 8192
