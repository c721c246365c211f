"""Many concurrent clients, on a device or on the CPU with ggml: each gets the same tokens and log-probabilities as
alone, bit for bit.
"""

import time
from dataclasses import replace

import pytest
from soak_clients import ask, count_who_give_way, difference, leaks, open_engine, run_all, soak
from starter_models import model_path
from tiny_gguf import write_tiny_gguf

from vkbackend.engine.engine import Engine
from vkbackend.engine.request import Finished, GenerationRequest, SamplingOptions
from vkbackend.engine.runner import ModelRunner
from vkbackend.loading import load
from vkbackend.tokenizer import Tokenizer

GREEDY = SamplingOptions(temperature=0, repeat_penalty=1.0)


def test_sixteen_clients_get_what_each_gets_alone(device, record_figure):
    with open_engine(model_path("smollm2"), device, parallel=8, num_pages=32) as engine:
        figures = soak(engine, requests=40, clients=16, distinct=6)
    assert not figures["differences"], "\n".join(figures["differences"])
    assert not figures["leaked"], figures["leaked"]
    assert figures["left_early"] and figures["stop_strings"], "the test tests nothing"
    record_figure(
        f"SmolLM2, 16 clients: {figures['tokens_per_second']} tok/s in all, one client "
        f"{figures['one_client_tokens_per_second']}"
    )
    assert figures["ratio"] > 1.2


def test_sixteen_clients_on_ggml_get_what_each_gets_alone(tmp_path, on_ggml):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "gemma3", "q4_k")
    with open_engine(path, None, parallel=8, num_pages=32) as engine:
        figures = soak(engine, requests=24, clients=16, distinct=6)
    assert not figures["differences"], "\n".join(figures["differences"])
    assert not figures["leaked"], figures["leaked"]


def test_eight_decode_together_faster_than_one(device, record_figure):
    """Each step reads the weights once for all sequences."""
    with open_engine(model_path("smollm2"), device, parallel=8, num_pages=None, context_length=128) as engine:
        options = replace(GREEDY, logit_bias=dict.fromkeys(engine.tokenizer.eos_ids, -1000.0))
        requests = [
            GenerationRequest(engine.tokenizer.encode(f"{number} foxes went to the river"), options, num_predict=32)
            for number in range(8)
        ]
        speeds = {}
        for count in (8, 1, 8, 1):  # the first time steps are recorded
            answers, _ = run_all(engine, [(request,) for request in requests[:count]], count)
            speeds[count] = sum((answer.finished.tokens - 1) / answer.finished.decode_seconds for answer in answers)
    record_figure(f"SmolLM2, decode: {speeds[8]:.1f} tok/s of 8 sequences together, {speeds[1]:.1f} of one")
    assert speeds[8] >= 1.5 * speeds[1]


@pytest.mark.parametrize(
    "architecture, prefill, place",
    [
        ("llama", "float32", "device"),
        ("gemma3", "float32", "device"),
        ("llama", "int8", "device"),
        ("llama", "float32", "on_ggml"),
        ("gemma3", "float32", "on_ggml"),
    ],
)
def test_preempted_requests_get_the_same_bits(tmp_path, request, monkeypatch, architecture, prefill, place):
    """A cache for about three of the eight: generations lose their pages, compute them again, and draw the same
    tokens. Where prompts would be rounded, and computed again be others than when decoded, the strict mode is what
    keeps the bits.
    """
    found = request.getfixturevalue(place)
    device = found if place == "device" else None
    monkeypatch.setenv("VKBACKEND_PREFILL", prefill)
    monkeypatch.setenv("VKBACKEND_DETERMINISTIC", "0" if prefill == "float32" else "1")
    path = write_tiny_gguf(tmp_path / "tiny.gguf", architecture, "q4_0")
    with open_engine(path, device, parallel=8, num_pages=22, context_length=256) as engine:
        prompts = [engine.tokenizer.encode(f"{index} and the hello") for index in range(10)]
        no_end = dict.fromkeys(engine.tokenizer.eos_ids, -1000.0)
        requests = [
            GenerationRequest(
                prompt,
                SamplingOptions(seed=index, top_k=100, top_p=1.0, logit_bias=no_end),
                num_predict=170,
                logprobs=True,
            )
            for index, prompt in enumerate(prompts)
        ]
        alone = []
        for each in requests:
            engine.runner.forget()
            alone.append(ask(engine, each))
        engine.runner.forget()
        gave_way = count_who_give_way(engine)
        answers, _ = run_all(engine, [(each,) for each in requests], len(requests))
        assert not leaks(engine), leaks(engine)
    assert [difference(*each) for each in zip(requests, answers, alone)] == [None] * len(requests)
    assert len(gave_way) > 1, "the test tests nothing"


def test_the_second_turn_of_a_chat_runs_its_own_tokens_only(device, record_figure):
    """A chat of 1,000 tokens continues: the first token of the second turn comes in a fraction of the first one's
    time.
    """
    runner = ModelRunner(load(model_path("smollm2"), device), context_length=2048, max_sequences=1)
    tokenizer = Tokenizer.from_gguf(runner.model.gguf)
    submitted, submit = [], runner.submit
    runner.submit = lambda work: (submitted.extend(work), submit(work))
    story = (
        "The ferry crossed the lake twice a day, and nobody in the village could remember a time when it had not done "
        "so. "
    ) * 45
    with Engine(runner, tokenizer) as engine:
        times, prompt = [], tokenizer.encode("<|im_start|>user\n" + story)[:1000]
        for question in (
            "<|im_end|>\n<|im_start|>assistant\n",
            "<|im_end|>\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n",
        ):
            prompt += tokenizer.encode(question)
            submitted.clear()
            begin = time.perf_counter()
            events = engine.generate(GenerationRequest(prompt, GREEDY, num_predict=8))
            next(events)
            times.append(time.perf_counter() - begin)
            *_, finished = events
            assert isinstance(finished, Finished)
            num_prefilled = sum(len(work.tokens) for work in submitted) - finished.tokens + 1
            prompt = list(finished.context)
    record_figure(
        f"SmolLM2, chat of 1,000 tokens: first token of turn 1 after {times[0]:.2f} s, of turn 2 after {times[1]:.2f} s"
    )
    assert num_prefilled <= 64, f"{num_prefilled} tokens ran before the second turn's first one"
    assert times[1] <= 0.25 * times[0]
