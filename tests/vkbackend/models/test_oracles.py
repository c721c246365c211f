"""Tiny models of all architectures that run, beside recorded answers of other engines, in every place that computes."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from math import inf
from pathlib import Path

import numpy as np
import pytest
from compare_oracles import cases, compare, logprobs_after
from places import SUPPORT
from shared_data import shared
from vulkan_drivers import DRIVERS, missing, run_on

from vkbackend import loading
from vkbackend.errors import UnsupportedModel
from vkbackend.graph.model import Config
from vkbackend.ops import OPS, elementwise
from vkbackend.tokenizer import Tokenizer

SECOND, SECOND_QUANTIZED = 2e-3, 5e-3  # to the second engine, which computes in float32
RECORDED, RECORDED_QUANTIZED = 0.04, 0.35  # its cache is f16, and it rounds activations to 8 bits
RECORDED_APART = {"deepseek2-lite-mla": 0.12}  # whose f16 cache is that coarse
# Requests in which rounding decides which expert a token of the prompt takes: llama.cpp in float32 takes ours.
TIES_OF_EXPERTS = {("qwen3moe", "shift")}
LEAST_STEPS = 9  # before the context shifts
GELU = 0.01  # both engines look GELU up in a table of f16 values

# Where the recorded engine departs from the model's definition: the field that makes its answers ours.
DEPARTURES = {
    "qwen3-yarn": lambda cfg: replace(cfg, ropes=tuple(replace(rope, magnitude=1.0) for rope in cfg.ropes)),
}


def recording(case: Path) -> dict:
    return json.loads((case / "cases.json").read_text())


@cache
def runnable() -> dict[str, tuple[Path, Config]]:
    """The cases whose models run here."""
    found = {}
    for name, case in cases(shared("oracles/text")).items():
        if any(each["status"] == 200 for each in recording(case)["requests"]):
            try:
                file = loading.read(case / "model.gguf")
                loading.make_layers(file)
            except UnsupportedModel:
                continue
            found[name] = case, file.config
    return found


def is_quantized(case: Path) -> bool:
    return bool(recording(case)["second_opinion_f32_weights"])


def uses_gelu(config: Config) -> bool:
    """Whether a feed-forward has GELU in either form, with a gate or without."""
    activation = getattr(config, "activation", "")
    return activation.startswith("gelu") or (not activation and getattr(config, "gate", "") == "gelu")


def bars(place: str, name: str) -> tuple[float, float]:
    """The largest allowed differences to the second engine and to the recorded one."""
    case, config = runnable()[name]
    if not is_quantized(case):
        recorded = RECORDED_APART.get(name, RECORDED)
        return GELU if uses_gelu(config) else SECOND, inf if name in DEPARTURES else recorded
    return inf if place == "ggml" else SECOND_QUANTIZED, RECORDED_QUANTIZED


@pytest.mark.slow
@pytest.mark.parametrize("place", ("exact", "ggml", *(driver.name for driver in DRIVERS)))
def test_log_probabilities_agree(place):
    driver = next((each for each in DRIVERS if each.name == place), None)
    found = run_on(
        driver,
        Path("compare_oracles.py"),
        "device" if driver else "cpu",
        *(case for case, _ in runnable().values()),
        environment={} if driver else {"VKBACKEND_CPU": place},
        seconds=1200,
    )
    failures = []
    for name, requests in found.items():
        second, recorded = bars(place, name)
        for request, each in requests.items():
            if request == "error":
                failures.append(f"{name}: {each}")
            elif (each["second"] or 0) > second or each["steps"] < LEAST_STEPS:
                failures.append(f"{name}, {request}: {each}")
            elif each["recorded"] > recorded and (name, request) not in TIES_OF_EXPERTS:
                failures.append(f"{name}, {request}: {each}")
    assert not failures, "\n".join(failures)
    assert found.keys() == runnable().keys()


def test_one_field_explains_where_the_recorded_engine_departs(monkeypatch):
    monkeypatch.setenv("VKBACKEND_CPU", "exact")
    for name in DEPARTURES.keys() & runnable().keys():
        case, config = runnable()[name]
        file = replace(loading.read(case / "model.gguf"), config=DEPARTURES[name](config))
        for request, each in compare(case, model=loading.load(file)).items():
            assert each.recorded <= RECORDED, (name, request, each)


def test_a_table_of_gelu_explains_the_rest(monkeypatch):
    """With GELU rounded as ggml's table rounds it, the difference is as small as in other models."""
    monkeypatch.setenv("VKBACKEND_CPU", "exact")
    exact = elementwise.gelu_tanh

    def rounded(a: np.ndarray) -> np.ndarray:
        table = exact(a.astype(np.float16).astype(np.float32)).astype(np.float16).astype(np.float32)
        return np.where(a >= 10, a, np.where(a <= -10, 0, table))

    monkeypatch.setattr(elementwise, "gelu_mul", lambda gate, up: rounded(gate) * up)
    for name in ("gelu_tanh", "gelu_erf"):  # the table holds the tanh form for all models
        monkeypatch.setitem(OPS, name, replace(OPS[name], reference=rounded))
    for name, (case, config) in runnable().items():
        if uses_gelu(config) and not is_quantized(case):
            for request, each in compare(case).items():
                assert each.second is None or each.second <= SECOND, (name, request, each)


def test_a_tie_of_experts_falls_as_in_llama_cpp(monkeypatch):
    monkeypatch.setenv("VKBACKEND_CPU", "exact")
    if importlib.util.find_spec("xllamacpp") is None:
        missing("xllamacpp is not installed (bash scripts/setup.sh --tests installs it)")
    for name, wanted in TIES_OF_EXPERTS:
        case, _ = runnable()[name]
        prompt = next(each for each in recording(case)["requests"] if each["name"] == wanted)["request"]["prompt"]
        path = str(case / "model.gguf")
        model = loading.load(path)
        tokens = Tokenizer.from_gguf(model.gguf).encode(prompt)
        done = subprocess.run(
            [sys.executable, SUPPORT / "llama_cpp_top.py"],
            input=json.dumps({path: [tokens]}),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        logprobs = logprobs_after(model, tokens)
        for id, value in json.loads(done.stdout)[path][0]:
            assert abs(logprobs[id] - value) <= SECOND, (name, id)
