"""Random conversations of a model whose layers have windows: the same bits with windows as with whole contexts."""

import queue
import random

import numpy as np
import pytest
from check_pages import check_pages
from tiny_gguf import WIDTH, write_tiny_gguf

from vkbackend.engine.engine import Engine
from vkbackend.engine.prompt import EmbeddingPart
from vkbackend.engine.request import Failed, Finished, GenerationRequest, SamplingOptions
from vkbackend.engine.runner import ModelRunner
from vkbackend.loading import load
from vkbackend.tokenizer import Tokenizer

HISTORIES, SEEDS = 50, 4
GREEDY = SamplingOptions(temperature=0, repeat_penalty=1.0, logit_bias={1: -1000.0})  # no end before num_predict
PAGE, CONTEXT = 4, 48
PARTS = [
    EmbeddingPart(
        np.random.default_rng(seed).standard_normal((7, WIDTH), np.float32), bytes([65 + seed]), is_whole=True
    )
    for seed in range(2)
]


class Recorder:
    """An engine that records the bits of every row of logits by the tokens before it, and how many tokens ran."""

    def __init__(self, model, tokenizer):
        self.runner = ModelRunner(
            model, context_length=CONTEXT, max_sequences=2, prefill_chunk=8, max_part=8, num_pages=16
        )
        self.rows: dict[tuple[int, ...], bytes] = {}
        self.num_run = 0
        self.num_preempted = 0
        self._work = []
        self._submit, self._wait = self.runner.submit, self.runner.wait
        self.runner.submit, self.runner.wait = self.submit, self.wait
        self.tokenizer = tokenizer
        self.start_engine()

    def start_engine(self):
        self.engine = Engine(self.runner, self.tokenizer)
        preempt = self.engine._preempt

        def counted(generation):
            self.num_preempted += 1
            preempt(generation)

        self.engine._preempt = counted

    def submit(self, work):
        self._submit(work)
        self._work = work

    def wait(self):
        rows = self._wait()
        check_pages(self.runner.pages, list(self.runner.sequences.values()))
        self.num_run += sum(len(item.tokens) for item in self._work)
        with_rows = [item for item in self._work if item.outputs]
        for item, row in zip(with_rows, rows):
            key = tuple(self.runner.sequences[item.sequence_id].tokens)
            bits = np.float64(row.log_sum_exp).tobytes() + row.ids.tobytes() + row.logits.tobytes()
            assert self.rows.setdefault(key, bits) == bits, "the same text has other bits than before"
        return rows

    def answers(self, prompts, num_predict):
        """The contexts after requests that run together."""
        events = [queue.SimpleQueue() for _ in prompts]
        for prompt, own in zip(prompts, events):
            self.engine.submit(GenerationRequest(prompt, GREEDY, num_predict), own.put)
        return [last_of(own).context for own in events]


def last_of(events) -> Finished:
    while True:
        event = events.get(timeout=600)
        assert not isinstance(event, Failed), event.exception
        if isinstance(event, Finished):
            return event


def history(rng: random.Random, recorders: list[Recorder]) -> str:
    """One conversation of several turns on all recorders; returns what happened in it."""

    def words(least, most):
        return [rng.randrange(6, 250) for _ in range(rng.randint(least, most))]

    turns = [words(3, 24)]
    happened = ""
    for _ in range(rng.randint(2, 3)):
        kind = rng.choice(["continue", "edit", "edit", "branch", "branch", "rows", "shift", "preempt"])
        happened += kind[0]
        base = turns[-1]
        if kind == "edit":  # of one of the last messages
            base = turns[max(0, len(turns) - rng.randint(2, 3))]
        elif kind == "branch":  # within a message
            base = base[: rng.randint(1, len(base))]
        prompts = [(base + words(1, 12))[-(CONTEXT - 12) :]]
        if kind == "rows":  # of embeddings that see each other
            prompts[0][rng.randint(0, len(prompts[0])) :] = [rng.choice(PARTS), *words(1, 6)]
        elif kind == "preempt":  # both find room and outgrow it
            prompts = [turns[0][:8] + words(1, 6), words(4, 14)]
        num_predict = {"shift": rng.randint(18, 30), "preempt": 28}.get(kind) or rng.randint(1, 6)
        found = [recorder.answers(prompts, num_predict) for recorder in recorders]
        assert found[0] == found[1], "other answers than with whole contexts"
        turns.append(found[0][0][: CONTEXT - 16])
    return happened


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_histories_have_the_bits_of_full_windows(tmp_path, path_with_bits, monkeypatch, seed, record_property):
    """50 conversations on one cache: they continue, edit, branch, hold embeddings, shift, and preempt each other."""
    monkeypatch.setattr("vkbackend.engine.runner.PAGE_SIZE", PAGE)
    monkeypatch.setattr("vkbackend.architectures.gemma3.GLOBAL_EVERY", 2)
    monkeypatch.setattr("vkbackend.graph.cache_layout.MORE_SNAPSHOTS", seed % 2 - 2)  # no snapshot, or one
    monkeypatch.setattr("vkbackend.engine.engine.GROWTH", 4)  # so that two are admitted which do not fit
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "gemma3", "q8_0", num_layers=2, window=6, seed=seed)
    model = load(path, path_with_bits)
    tokenizer = Tokenizer.from_gguf(model.gguf)
    windowed = Recorder(model, tokenizer)
    monkeypatch.setenv("VKBACKEND_FULL_WINDOWS", "1")
    full = Recorder(model, tokenizer)
    (pool,) = windowed.runner.pages.windows.pools
    assert pool.num_pages < full.runner.pages.num_pages and not full.runner.pages.windows.pools
    rng = random.Random(seed)
    counts = []
    for _ in range(HISTORIES):
        before = windowed.num_run, full.num_run
        happened = history(rng, [windowed, full])
        counts.append((happened, windowed.num_run - before[0], full.num_run - before[1]))
        if rng.random() < 0.1:
            for recorder in (windowed, full):
                recorder.engine.close()
                recorder.runner.forget()
                recorder.start_engine()
    for recorder in (windowed, full):
        recorder.engine.close()
    record_property("(what happened, tokens run with windows, with whole contexts) of each history", counts)
    common = windowed.rows.keys() & full.rows.keys()
    assert len(common) > 500 and all(windowed.rows[key] == full.rows[key] for key in common)
    assert windowed.num_preempted and set("".join(happened for happened, *_ in counts)) == set("cebrsp")
    assert full.num_run < windowed.num_run < 1.4 * full.num_run
