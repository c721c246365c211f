"""The engine's own work for a token does not grow with the context, whatever the options, nor its work for a token of
a prompt.
"""

import threading
import time
from statistics import median

import numpy as np
import pytest
from fake_runner import FakeRunner, FakeTokenizer, logits_row

from vkbackend.engine.engine import Engine
from vkbackend.engine.request import Finished, GenerationRequest, SamplingOptions

VOCABULARY = 32_000
SHORT, LONG = 1_000, 128_000
NUM_TOKENS = 60
WARM = 10


class InstantRunner(FakeRunner):
    """A runner of real pages whose steps take no time: every row is the same."""

    def __init__(self, tokenizer):
        super().__init__(
            tokenizer, context_length=LONG + 1024, max_sequences=1, prefill_chunk=512, page_size=32, windows=()
        )
        logits = np.random.default_rng(1).normal(0, 2, VOCABULARY)
        logits[:2] = -100  # the tokens that end a text
        self._row = logits_row(logits)

    def open_sequence(self, prefix):
        self.opened_at = time.thread_time()
        return super().open_sequence(prefix)

    def wait(self):
        (work, _), self._submitted = self._submitted, None
        for item in work:
            self.pages.commit(self.sequences[item.sequence_id])
        return [self._row for item in work for _ in range(item.outputs)]


def text(length: int) -> list[int]:
    """Tokens that occur about as often as words do: one in inverse proportion to its rank."""
    return (2 * (VOCABULARY / 2) ** np.random.default_rng(2).random(length)).astype(int).tolist()


def engine_seconds(engine: Engine, prompt: list[int], **fields) -> tuple[float, list[float]]:
    """Processor time of the engine's thread: up to the first token, and of each later one."""
    times: list[float] = []
    done = threading.Event()

    def listener(event):
        times.append(time.thread_time())
        if isinstance(event, Finished):
            done.set()

    fields.setdefault("options", SamplingOptions(seed=1))
    engine.submit(GenerationRequest(prompt, num_predict=NUM_TOKENS, **fields), listener)
    assert done.wait(100)
    return times[0] - engine.runner.opened_at, np.diff(times[:-1]).tolist()[WARM:]


OPTIONS = {
    "default": {},
    "all tokens repeat": {"options": SamplingOptions(seed=1, repeat_last_n=-1, presence_penalty=0.1)},
    "whole rows": {"options": SamplingOptions(seed=1, top_k=0, repeat_last_n=-1)},
    "log-probabilities": {"logprobs": True, "top_logprobs": 20},
    "stop strings": {"stop": ["</s>", "a stop that never comes", "\n\n\n\n"]},
    "bias": {"options": SamplingOptions(seed=1, logit_bias=dict.fromkeys(range(10, 300), -1.0))},
}


@pytest.fixture(scope="module")
def engine():
    tokenizer = FakeTokenizer([f" word{number}" for number in range(VOCABULARY - 2)], vocab_size=VOCABULARY)
    with Engine(InstantRunner(tokenizer), tokenizer) as engine:
        yield engine


@pytest.mark.parametrize("name", OPTIONS)
def test_a_token_after_a_long_prompt_takes_as_long_as_after_a_short_one(engine, record_figure, name):
    prompt = text(LONG)
    found = {length: [] for length in (SHORT, LONG)}
    for _ in range(3):  # interleaved
        for length, own in found.items():
            own += engine_seconds(engine, prompt[:length], **OPTIONS[name])[1]
    short, long = (1e3 * median(own) for own in found.values())
    record_figure(f"host time of a token, {name}: {short:.3f} ms at {SHORT} tokens, {long:.3f} ms at {LONG}")
    assert long <= 1.3 * short + 0.05


def test_a_token_of_a_long_prompt_takes_as_long_as_of_a_short_one(engine, record_figure):
    prompt, each = text(LONG), {}
    for length in (SHORT, LONG):
        seconds = [engine_seconds(engine, [number + 2, *prompt[:length]])[0] for number in range(3)]  # none is cached
        each[length] = 1e6 * min(seconds) / length
    record_figure(f"host time of a prompt's token: {each[SHORT]:.2f} us of {SHORT}, {each[LONG]:.2f} us of {LONG}")
    assert each[LONG] <= 1.3 * each[SHORT] + 1
