"""Log-probabilities and embeddings of prompts that are not continued, and perplexity."""

import json
import math
import re
import threading
from functools import lru_cache

import numpy as np
import pytest
from click.testing import CliRunner
from engine_world import GREEDY, until
from places import DATA
from starter_models import model_path
from tiny_gguf import ARCHITECTURES, write_tiny_gguf
from vulkan_drivers import in_ci

from vkbackend.engine import runner as runners
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.engine import Engine
from vkbackend.engine.perplexity import Perplexity, perplexity, windows
from vkbackend.engine.request import GenerationRequest, PromptLogprobs, Purpose
from vkbackend.engine.runner import ModelRunner
from vkbackend.errors import RequestError
from vkbackend.loading import load
from vkbackend.server.cli.main import cli
from vkbackend.session import Session

TOKENS = [int(token) for token in np.random.default_rng(7).integers(3, 200, 190)]
# (model, whether on the device, how many of the 4,096 recorded tokens): all of them for both models in CI, gemma3's on
# the CPU, whose product with a vocabulary of 262,144 takes a software driver long.
SCORED = [
    ("smollm2", True, 4096 if in_ci() else 1024),
    ("gemma3", True, 384),
    ("gemma3", False, 4096 if in_ci() else 512),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """path(architecture): a small model's file."""
    folder = tmp_path_factory.mktemp("models")
    return lru_cache(None)(lambda architecture: write_tiny_gguf(folder / f"{architecture}.gguf", architecture, "q8_0"))


@pytest.fixture(params=["device", "on_ggml", "twins"])
def place(request):
    """A device, or None for the CPU with ggml or with the numpy references."""
    found = None if request.param == "twins" else request.getfixturevalue(request.param)
    return found if request.param == "device" else None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_have_the_bits_of_whole_rows(path, place, architecture):
    file, tokenizer = path(architecture), Session(path(architecture)).tokenizer
    session = Session(file, place, context_length=256, kv_type="f32")
    whole = [
        float(row.full()[following]) - row.log_sum_exp for following, row in zip(TOKENS[1:], session.rows(TOKENS[:-1]))
    ]
    assert session.logprobs(TOKENS).tobytes() == np.array(whole).tobytes()
    with Engine(
        ModelRunner(load(file, place), context_length=256, prefill_chunk=48, kv_type="f32"), tokenizer
    ) as engine:
        first, *scores = engine.score(TOKENS)
        assert first is None and [score.token_id for score in scores] == TOKENS[1:]
        difference = np.abs(np.array([score.logprob for score in scores]) - whole).max()
        assert difference == 0 if place else difference < 5e-4  # BLAS takes another order for another number of rows
        with_top = engine.score(TOKENS, top_logprobs=3)[1:]
    assert [score.logprob for score in with_top] == [score.logprob for score in scores]
    for score, row in zip(with_top, session.rows(TOKENS[:-1])):
        assert [top.token_id for top in score.top] == list(row.ids[:3])
        np.testing.assert_allclose(
            [top.logprob for top in score.top], row.logits[:3] - row.log_sum_exp, rtol=1e-5, atol=5e-4
        )
        if score.token_id in row.ids[:3]:  # whoever looks for it among the likeliest finds the same number
            assert score.logprob == next(top.logprob for top in score.top if top.token_id == score.token_id)


def test_nothing_of_the_vocabularys_size_is_read(path, device, discrete_device, monkeypatch):
    for where in (device, discrete_device):
        runner = ModelRunner(load(path("gemma3"), where), context_length=256)
        monkeypatch.setattr(where, "download", lambda *arguments: pytest.fail("something was read beside the results"))
        runner.step([SequenceWork(runner.open_sequence(), TOKENS[:64], targets=TOKENS[1:65])])
        read = sum(
            view.buffer.num_bytes for view in runner.executor._last.results
        )  # what is copied to where the host can read it
        assert 20 * 64 <= read <= 64 * 64
        monkeypatch.undo()


def test_long_parts_are_scored_piece_by_piece(path, place, monkeypatch):
    whole = Session(path("llama"), place, context_length=256, kv_type="f32")
    expected = whole.logprobs(TOKENS)
    monkeypatch.setattr(runners, "SCORED_BYTES", 4 * whole.runner.vocab_size * 5)
    parts = ModelRunner(load(path("llama"), place), context_length=256, max_sequences=2, kv_type="f32")
    first, second = parts.open_sequence(), parts.open_sequence()
    parts.step([SequenceWork(second, TOKENS[:3])])
    *rows, whole_row = parts.step(
        [SequenceWork(first, TOKENS[:90], targets=TOKENS[1:91]), SequenceWork(second, TOKENS[3:4], 1)]
    )
    np.testing.assert_allclose(
        [row.target_logit - row.log_sum_exp for row in rows], expected[:90], rtol=3e-5, atol=3e-4
    )
    assert float(whole_row.full()[TOKENS[4]]) - whole_row.log_sum_exp == pytest.approx(expected[3], abs=5e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_requests_in_one_step_are_kept_apart(path, place, architecture):
    """A sequence that decodes, one that is scored with candidates, one of which the hidden state is wanted, all in
    one step.
    """
    model = load(path(architecture), place)
    alone, together = (ModelRunner(model, context_length=256, max_sequences=3, kv_type="f32") for _ in range(2))
    work = [
        {"tokens": [9], "outputs": 1},
        {"tokens": TOKENS[:20], "outputs": 1, "targets": TOKENS[1:20], "candidates": True},
        {"tokens": TOKENS[30:41], "hidden": True},
    ]

    def begin(runner):
        ids = [runner.open_sequence() for _ in work]
        runner.step([SequenceWork(ids[0], TOKENS[50:60])])
        return ids

    ids = begin(alone)
    apart = []
    for sequence, each in zip(ids, work):
        apart.append(
            [
                output if isinstance(output, np.ndarray) or output.is_scored else output.full()
                for output in alone.step([SequenceWork(sequence, **each)])
            ]
        )
    ids = begin(together)
    found = together.step([SequenceWork(sequence, **each) for sequence, each in zip(ids, work)])
    (decode,), (*scores, last), (hidden,) = apart
    assert len(found) == 1 + 19 + 1 + 1
    np.testing.assert_allclose(found[0].full(), decode, rtol=0, atol=1e-4)
    for row, expected in zip(found[1:20], scores):
        assert (row.target_logit, row.log_sum_exp) == pytest.approx(
            (expected.target_logit, expected.log_sum_exp), abs=1e-4
        )
        assert list(row.ids[:5]) == list(expected.ids[:5]) and len(row.ids) >= 128
    with pytest.raises(ValueError, match="output_rows"):
        found[1].full()
    np.testing.assert_allclose(found[20].full(), last, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found[21], hidden, rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_embedding_is_the_last_state_after_the_last_norm(path, place, architecture):
    session = Session(path(architecture), place, context_length=256, keep=True)
    list(session.rows(TOKENS[:20]))
    expected = session.read("output_norm")[19]  # one row per output row
    with Engine(ModelRunner(load(path(architecture), place), context_length=256), session.tokenizer) as engine:
        found = engine.embed(TOKENS[:20])
        again = engine.embed(TOKENS[:20])  # from what the cache knows
    assert found.shape == expected.shape == (session.model.config.width,) and found.dtype == np.float32
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=1e-3 * np.abs(expected).max()
    )  # half-precision keys are read back, or not yet rounded
    np.testing.assert_allclose(again, found, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_an_engine_scores_and_embeds_while_it_generates(world):
    here = world([["a", "b", "c"]], max_sequences=3)
    likely = here.tokenizer.id("a")
    here.runner.next_token = lambda tokens: likely
    tokens = here.tokenizer.encode("one two three four five")
    listener = here.start("something to go on with", num_predict=5)
    scores, vector = here.engine.score(tokens), here.engine.embed(tokens)
    assert listener.wait().tokens == 5 and len(scores) == 5 and scores[0] is None
    assert list(vector) == [5, *tokens[-3:]]
    row = here.runner.row(likely).astype(np.float64)
    assert [score.logprob for score in scores[1:]] == pytest.approx(
        list(row[tokens[1:]] - np.log(np.exp(row).sum())), abs=1e-4
    )
    assert here.engine.score(tokens[:1]) == [None]


def test_what_cannot_be_scored(world):
    here = world(context_length=16)
    for call in (here.engine.score, here.engine.embed):
        with pytest.raises(RequestError, match="no tokens"):
            call([])
        with pytest.raises(RequestError, match="exceeds the context length"):
            call([5] * 17)
        with pytest.raises(RequestError, match="not in the model's vocabulary"):
            call([here.runner.vocab_size])
    assert (
        len(here.engine.score([5] * 16)) == 16 and len(here.engine.embed([5] * 16)) == 4
    )  # a full context can be looked at


def test_scores_come_in_one_pass_of_chunks_and_no_token_is_sampled(world):
    here = world(prefill_chunk=16)
    events = list(here.engine.generate(GenerationRequest([7] * 100, GREEDY, purpose=Purpose.SCORE)))
    assert (
        isinstance(events[0], PromptLogprobs)
        and len(events) == 2
        and events[1].tokens == 0
        and events[1].prompt_tokens == 100
    )
    assert [len(step[0].tokens) for step in here.runner.steps] == [16] * 6 + [4]
    assert all(step[0].outputs == 0 for step in here.runner.steps)


def test_a_step_scores_no_more_than_the_runner_wants(world):
    here = world(prefill_chunk=32, scored_chunk=10, max_sequences=3)
    here.runner.gate = threading.Semaphore(0)
    listeners = [here.start([at + 5] * 40, purpose=Purpose.SCORE) for at in range(2)] + [here.start([9] * 100)]
    until(lambda: here.engine.num_unfinished == 3)
    here.runner.gate.release(1000)
    for listener in listeners:
        listener.wait()
    scored = [sum(len(work.tokens) for work in step if work.targets) for step in here.runner.steps]
    assert max(scored) == 10 and sum(scored) >= 78
    assert max(sum(len(work.tokens) for work in step) for step in here.runner.steps) == 32  # the rest is for others


def test_a_text_whose_scoring_gives_way_is_scored_whole(world):
    here = world([["x", "y"] * 100], context_length=64, page_size=8, num_pages=10, prefill_chunk=8, max_sequences=2)
    writer = here.start([5] * 20, num_predict=40)
    scores = [here.start([9] * 50, purpose=Purpose.SCORE) for _ in range(3)]
    assert writer.wait().tokens == 40
    for listener in scores:
        listener.wait()
        assert [len(event.logprobs) for event in listener.events[:-1]] == [49]


def test_windows_score_every_token_once_and_the_later_ones_with_half_a_context_before_them():
    for count, context, bos in (
        (3, 16, None),
        (16, 16, None),
        (17, 16, None),
        (100, 16, None),
        (101, 15, 999),
        (9, 2, None),
        (40, 16, 999),
    ):
        tokens, scored = list(range(count)), []
        for number, (window, num_scored) in enumerate(windows(tokens, context, bos)):
            assert len(window) <= context and 0 < num_scored < len(window)
            assert number == 0 or bos is None or window[0] == bos
            assert number == 0 or len(window) - num_scored >= context // 2
            scored += window[-num_scored:]
        assert scored == tokens[1:]


def test_perplexity_is_the_mean_of_all_windows(path, device):
    with Engine(
        ModelRunner(load(path("gemma3"), device), context_length=64), Session(path("gemma3")).tokenizer
    ) as engine:
        tokens = [engine.tokenizer.bos_id, *TOKENS]
        found = perplexity(engine, tokens)
        parts = [
            score.logprob
            for window, count in windows(tokens, 64, engine.tokenizer.bos_id)
            for score in engine.score(window)[-count:]
        ]
        assert (found.num_tokens, found.context) == (len(tokens) - 1, 64)
        assert found.value == pytest.approx(np.exp(-np.mean(parts)), rel=1e-9)
        assert perplexity(engine, tokens[:40]).value == pytest.approx(np.exp(-np.mean(parts[:39])), rel=1e-3)
        with pytest.raises(RequestError, match="two or more"):
            perplexity(engine, tokens[:1])


def test_the_command(path, tmp_path, device, caplog):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 4)
    done = CliRunner().invoke(cli, ["perplexity", str(text), "--model", str(path("llama")), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (
        found["tokens"] == len(Session(path("llama")).tokenizer.encode(text.read_text())) - 1
        and found["perplexity"] > 1
    )
    on_cpu = CliRunner().invoke(
        cli,
        ["perplexity", "-", "--model", str(path("llama")), "--cpu", "--tokens", "30", "--context", "4096"],
        input=text.read_bytes(),
    )
    said = r"perplexity [\d.]+ \([\d.]+ nats per token\) over 29 tokens, context 512; [\d.]+ s on CPU\n"
    assert re.fullmatch(said, on_cpu.output), on_cpu.output
    assert not on_cpu.stderr and "was trained with a context" not in caplog.text  # that is for the server's log
    for arguments, said in (
        ([str(text)], "no model given"),
        ([str(text), "--model", "no-such-model"], "no-such-model"),
        ([str(path("llama")), "--model", str(path("llama"))], "is not UTF-8 text"),
    ):
        done = CliRunner().invoke(cli, ["perplexity", *arguments])
        assert done.exit_code and said in done.output


@pytest.mark.parametrize("mean_logprob, said", [(math.nan, "NaN"), (-math.inf, "-Inf"), (-1000.0, "+Inf")])
def test_the_command_prints_no_numbers_that_json_does_not_have(path, tmp_path, monkeypatch, mean_logprob, said):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox")
    found = Perplexity(3, mean_logprob, 512)
    monkeypatch.setattr("vkbackend.engine.perplexity.perplexity", lambda engine, tokens: found)
    done = CliRunner().invoke(cli, ["perplexity", str(text), "--model", str(path("llama")), "--cpu", "--json"])
    assert done.exit_code and f"unsupported value: {said}" in done.output


@pytest.mark.parametrize("name, on_device, count", SCORED)
def test_perplexity_is_that_of_llama_cpp(name, on_device, count, device, record_figure):
    """Over tests/data/alice.txt; llama.cpp's log-probabilities were made by prompt_logprobs_llama_cpp.py."""
    recorded = json.loads((DATA / f"perplexity_{name}.json").read_text())
    tokens = recorded["tokens"][:count]
    session = Session(model_path(name), device if on_device else None)
    assert session.tokenizer.encode((DATA / "alice.txt").read_text())[:count] == tokens
    with Engine(ModelRunner(session.model, context_length=4096), session.tokenizer) as engine:
        ours = perplexity(engine, tokens)
    theirs = np.exp(-np.mean(recorded["logprobs"][: count - 1]))
    where = "device" if on_device else "CPU"
    record_figure(
        f"{name}: perplexity of {count} tokens on the {where} {ours.value:.3f}, llama.cpp {theirs:.3f} "
        f"({ours.value / theirs - 1:+.2%})"
    )
    assert ours.num_tokens == count - 1 and ours.value == pytest.approx(theirs, rel=0.01)
