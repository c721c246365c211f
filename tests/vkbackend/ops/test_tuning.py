"""Measured choice of kernels: candidates give the same bits, a choice is kept, and what is no good file is no
choice.
"""

import json
import logging
import time

import numpy as np
import pytest
from tiny_gguf import write_tiny_gguf
from vulkan_drivers import DEFAULT

from vkbackend import settings
from vkbackend.device.dispatch import Program
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import ModelRunner
from vkbackend.loading import load
from vkbackend.ops import OPS, matmul_kernels, tuning
from vkbackend.ops.packed import PackedMatrix
from vkbackend.ops.run import prepare


@pytest.fixture
def device(tmp_path, monkeypatch):
    """On the first device that there is, with a cache of its own."""
    import vkbackend

    DEFAULT.require()
    monkeypatch.setenv("VKBACKEND_CACHE", str(tmp_path))
    opened = vkbackend.open_device()
    yield opened
    opened.close()


def job(device, num_tokens, attrs, rows=512, k=512):
    rng = np.random.default_rng(5)
    inputs = [
        rng.standard_normal((num_tokens, k), np.float32),
        PackedMatrix.random(rng, "q4_1", rows, k, bool(attrs.get("gate"))),
        None,
        None,
    ]
    prepared = prepare(device, OPS["matmul"], inputs, attrs)
    return inputs, prepared


@pytest.mark.parametrize("num_tokens, attrs", [(1, {}), (2, {"gate": "silu"}), (9, {})])
def test_candidates_give_the_same_bits(device, num_tokens, attrs):
    inputs, _ = job(device, num_tokens, attrs)
    candidates = OPS["matmul"].candidates(device, inputs, **attrs)
    assert len(candidates) > 1
    results = []
    for candidate in candidates:
        prepared = prepare(device, OPS["matmul"], inputs, attrs, candidate)
        Program(device, prepared.dispatches).run()
        results.append(prepared.results(device)[0].tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("attrs", [{}, {"gate": "gelu"}])
def test_slices_give_the_same_bits_whatever_the_tile(device, attrs):
    """What a GPU does: K in slices, one subgroup each, or one after the other in a tile of shared memory."""
    device.flavor = "subgroup"
    inputs, _ = job(device, 5, attrs)
    inputs[2] = np.random.default_rng(6).uniform(0.5, 1.5, 512).astype(np.float32)
    results = {}
    for slices in (1, 3, 8):
        for tile in [*matmul_kernels.TILES["subgroup"], matmul_kernels.SHARED]:
            if attrs and tile != matmul_kernels.SHARED and tile[0] % 2:
                continue
            prepared = prepare(device, OPS["matmul"], inputs, attrs | {"eps": 1e-5}, {"tile": tile, "slices": slices})
            Program(device, prepared.dispatches).run()
            results.setdefault(slices, set()).add(prepared.results(device)[0].tobytes())
    assert all(len(same) == 1 for same in results.values())
    assert len(set.union(*results.values())) == 3, "slices did not change the order of the sums"


def test_what_is_not_measured_takes_what_was_fastest_for_nearly_the_same(device, monkeypatch):
    """Fewer kernels, and a better guess; only of the same product, and only what it could be."""
    found = tuning.Tuning(device)
    for num_tokens, fastest in ((128, -1), (9, 0)):
        inputs, prepared = job(device, num_tokens, {})
        monkeypatch.setattr(
            tuning,
            "_least_seconds",
            lambda programs, fastest=fastest: [
                1.0 - 0.1 * (at == fastest % len(programs)) for at in range(len(programs))
            ],
        )
        found.fastest(OPS["matmul"], prepared.inputs, prepared.outputs, {})
    measured = {
        num_tokens: found.fastest(OPS["matmul"], *of(job(device, num_tokens, {})), {}) for num_tokens in (128, 9)
    }
    assert measured[128] != measured[9]
    for num_tokens, like in ((96, 128), (16, 9)):
        inputs, outputs = of(job(device, num_tokens, {}))
        assert found.fastest(OPS["matmul"], inputs, outputs, {}, measure=False) is None
        assert found.likely(OPS["matmul"], inputs, {}) == measured[like]
    assert found.likely(OPS["matmul"], job(device, 96, {}, rows=1024)[1].inputs, {}) == {}
    one = found.likely(OPS["matmul"], job(device, 1, {})[1].inputs, {})
    assert one == {} or one in OPS["matmul"].candidates(device, job(device, 1, {})[1].inputs)


def of(job):
    return job[1].inputs, job[1].outputs


def fastest(device, **options):
    _, prepared = job(device, 1, {})
    return tuning.Tuning(device, **options).fastest(OPS["matmul"], prepared.inputs, prepared.outputs, {})


def test_a_choice_is_measured_once_and_kept(device, monkeypatch):
    assert fastest(device, is_on=False) == {}  # nothing measured yet, and nothing is measured
    monkeypatch.setattr(tuning, "_least_seconds", lambda programs: [1.0] + [0.5] * (len(programs) - 1))
    chosen = fastest(device)
    assert set(chosen) == {"tile"}
    monkeypatch.setattr(tuning, "_least_seconds", lambda programs: pytest.fail("measured again"))
    assert fastest(device) == fastest(device, is_on=False) == chosen


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 3}', "\x00"])
def test_a_damaged_file_is_measured_again(device, text):
    chosen = fastest(device)
    path = tuning.Tuning(device).path
    path.write_text(text)
    assert set(fastest(device)) == {"tile"}
    (jobs,) = json.loads(path.read_text()).values()
    assert len(jobs) == 1 and chosen["tile"]


def test_what_is_no_candidate_is_not_taken(device):
    fastest(device)
    path = tuning.Tuning(device).path
    ((shaders, jobs),) = json.loads(path.read_text()).items()
    path.write_text(json.dumps({shaders: {name: {"tile": [99, 7]} for name in jobs}}))
    assert fastest(device)["tile"] != (99, 7)


def test_the_first_run_of_a_step_measures_nothing(device, tmp_path, monkeypatch):
    """Whoever waits for a first token does not wait for a measurement; the second run measures, and says the same."""
    measured = []
    least_seconds = tuning._least_seconds
    monkeypatch.setattr(
        tuning, "_least_seconds", lambda programs: (measured.append(len(programs)), least_seconds(programs))[1]
    )
    monkeypatch.setattr(tuning, "LEAST_FLOPS", 0)
    runner = ModelRunner(load(write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "q4_k"), device), context_length=64)
    logits = []
    for expected in (False, True, False):
        sequence = runner.open_sequence()
        measured.clear()
        logits.append(runner.step([SequenceWork(sequence, [5, 6, 7], 1)])[0].full().tobytes())
        assert bool(measured) == expected
        runner.close_sequence(sequence)
    assert len(set(logits)) == 1


def test_a_choice_that_cannot_be_kept_is_still_taken(device, tmp_path, caplog):
    """A file where the folder should be: measured in each process, and said, but nothing fails."""
    (tmp_path / "tuning").write_text("")
    tuned = tuning.Tuning(device)
    _, prepared = job(device, 1, {})
    arguments = OPS["matmul"], prepared.inputs, prepared.outputs, {}
    with caplog.at_level(logging.WARNING):
        assert set(tuned.fastest(*arguments)) == {"tile"} and tuned.fastest(*arguments) == tuned.fastest(*arguments)
    assert "cannot write" in caplog.text


def test_large_jobs_are_measured_in_fewer_rounds(monkeypatch):
    """Each candidate still runs twice: once to make its kernel, once to be measured."""

    class Slow:
        num_runs = 0

        def run(self):
            self.num_runs += 1
            time.sleep(0.02)

    monkeypatch.setattr(tuning, "MOST_SECONDS", 0.05)
    programs = [Slow(), Slow()]
    assert all(0.02 <= seconds < 1 for seconds in tuning._least_seconds(programs))
    assert [program.num_runs for program in programs] == [2, 2]
    monkeypatch.setattr(tuning, "MOST_SECONDS", 60)
    tuning._least_seconds(programs)
    assert [program.num_runs for program in programs] == [2 + tuning.ROUNDS + 1] * 2


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key.replace("x", "y"),
        lambda key: key.replace(" ", "_"),
        lambda key: "9" * 5000 + "x1",
        lambda key: "",
    ],
)
def test_a_damaged_name_of_a_job_is_passed_over(device, change):
    tuned = tuning.Tuning(device)
    _, prepared = job(device, 1, {})
    arguments = OPS["matmul"], prepared.inputs, {}
    name = tuned._job(*arguments)
    tuned.path.parent.mkdir(exist_ok=True)
    tuned.path.write_text(
        json.dumps({tuned._of_shaders: {change(name): {"tile": [1]}, "other": 7, name + " more": None}})
    )
    assert tuning.Tuning(device).likely(*arguments) == {}


@pytest.mark.parametrize("text", [b"\xff\xfe", b"[" * 100_000, b"{", b"[]", b'{"a": 1}', b"9" * 5000])
def test_a_damaged_file_is_warned_of_once(device, monkeypatch, caplog, text):
    monkeypatch.setattr(settings, "_warned", set())
    path = tuning.Tuning(device).path
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
    with caplog.at_level(logging.WARNING):
        assert tuning.Tuning(device)._found == tuning.Tuning(device)._found == {}
    assert caplog.text.count("is damaged") == 1
