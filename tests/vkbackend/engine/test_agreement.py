"""Agreement of next-token log-probabilities of a 512-token English text: Vulkan against the numpy twins and against
llama.cpp (tests/data/prompt_logprobs_*.json, made by prompt_logprobs_llama_cpp.py). Figures are printed: pytest -s, or
the summary.
"""

import json
from functools import cache

import numpy as np
import pytest
from places import DATA
from starter_models import model_path

from vkbackend.session import Session

MODELS = ("smollm2", "gemma3")


@cache
def recorded(name: str) -> dict:
    return json.loads((DATA / f"prompt_logprobs_{name}.json").read_text())


@cache
def score(name: str, device, kv_type: str) -> tuple[np.ndarray, np.ndarray]:
    """(log-probability of each token after the first, most likely token at each position)."""
    tokens = recorded(name)["tokens"]
    session = Session(model_path(name), device, kv_type=kv_type)
    logprobs, best = [], []
    for following, row in zip(tokens[1:], session.rows(tokens[:-1])):
        logprobs.append(float(row.full()[following]) - row.log_sum_exp)
        best.append(int(row.ids[0]))
    return np.array(logprobs), np.array(best)


@pytest.fixture(scope="module", params=MODELS)
def twins(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VKBACKEND_CPU", "exact")
        return request.param, score(request.param, None, "f32")


def test_tokens_are_those_that_llama_cpp_scored(twins):
    name = twins[0]
    tokenizer = Session(model_path(name)).tokenizer
    assert tokenizer.encode((DATA / "english.txt").read_text())[:512] == recorded(name)["tokens"]


def test_ggml_agrees_with_twins(twins, on_ggml, record_figure):
    """On the CPU, where ggml rounds activations to 8 bits: Ollama's own distance is 0.056 and 0.069."""
    name, (expected, _) = twins
    mean = np.abs(score.__wrapped__(name, None, "f32")[0] - expected).mean()
    record_figure(f"{name}: ggml on the CPU against twins: mean |difference| {mean:.2e}")
    assert mean <= 0.08


@pytest.mark.parametrize("kv_type, bar", [("f32", 1e-3), ("f16", 5e-3), ("q8_0", 4e-2)])
def test_device_agrees_with_twins(twins, device, kv_type, bar, record_figure):
    """Each cache type against twins that store f32. The bars of q8_0 allow for its 8 bits."""
    name, (expected, best) = twins
    found, top = score(name, device, kv_type)
    mean, same = np.abs(found - expected).mean(), (top == best).mean()
    record_figure(
        f"{name}: Vulkan ({kv_type} KV) against twins: mean |difference| {mean:.2e}, largest "
        f"{np.abs(found - expected).max():.2e}, "
        f"same top-1 {same:.1%}"
    )
    assert mean <= bar
    assert same >= (0.97 if kv_type == "q8_0" else 0.99)


def compare_with_llama_cpp(name, found, what, record_figure):
    """Compare with llama.cpp on the CPU, which rounds activations to 8 bits before each product of a quantized matrix.
    With the same weights expanded to f32 it does not.

    This rounding alone changes its log-probabilities by 0.056 (SmolLM2) and 0.069 (gemma3) on average, in both
    directions. So the mean of |difference| is compared with the expanded run, and the mean with the plain run.
    """
    against_f32 = found - recorded(name)["logprobs_f32"]
    against_plain = found - recorded(name)["logprobs"]
    record_figure(
        f"{name}: {what} against llama.cpp on the CPU: mean |difference| {np.abs(against_f32).mean():.4f} with its "
        f"weights expanded to f32, "
        f"{np.abs(against_plain).mean():.4f} with its rounded activations (mean {against_plain.mean():+.4f})"
    )
    assert np.abs(against_f32).mean() <= 0.05
    assert abs(against_plain.mean()) <= 0.05
    assert np.abs(against_plain).mean() <= 0.1


def test_twins_agree_with_llama_cpp(twins, record_figure):
    name, (found, _) = twins
    compare_with_llama_cpp(name, found, "twins (f32 KV)", record_figure)


@pytest.mark.parametrize("name", MODELS)
def test_device_agrees_with_llama_cpp(device, name, record_figure):
    compare_with_llama_cpp(name, score(name, device, "f16")[0], "Vulkan (f16 KV)", record_figure)
