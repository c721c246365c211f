"""Steps in several programs: pipelines are made while the device works, and failures leave nothing running."""

import numpy as np
import pytest
from tiny_gguf import write_tiny_gguf

from vkbackend.device.context import Device
from vkbackend.device.dispatch import Program
from vkbackend.device.kernel_cache import KernelCache
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import ModelRunner
from vkbackend.errors import DeviceError
from vkbackend.loading import load

PROMPT = list(range(40, 56))


@pytest.fixture
def runner(device, tmp_path, monkeypatch):
    """A runner on a device without kernels, whose steps have several programs."""
    monkeypatch.setattr("vkbackend.graph.recorded_step.SUBMISSION_FLOPS", 1e6)
    opened = Device(device.info)
    yield ModelRunner(
        load(write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "q8_0"), opened),
        context_length=64,
        max_sequences=4,
        prefill_chunk=16,
        tuned_at=99,  # measuring makes pipelines, too
    )
    opened.close()


def logits(runner) -> np.ndarray:
    sequence = runner.open_sequence()
    (row,) = runner.step([SequenceWork(sequence, PROMPT, 1)])
    return row.full()


def test_the_device_works_while_later_pipelines_are_made(runner, monkeypatch):
    events = []
    make, submit = KernelCache._make, Program.submit
    monkeypatch.setattr(KernelCache, "_make", lambda *given: (events.append("pipeline"), make(*given))[1])
    monkeypatch.setattr(Program, "submit", lambda program: (events.append("submit"), submit(program))[1])
    first = logits(runner)
    at = events.index("submit")
    assert "pipeline" in events[:at] and "pipeline" in events[at:]
    del events[:]
    np.testing.assert_array_equal(logits(runner).view(np.uint32), first.view(np.uint32))
    assert set(events) == {"submit"}, "a step that ran before makes no pipelines"


def test_a_pipeline_that_fails_leaves_nothing_running(runner, monkeypatch):
    """The programs before it are waited for, and the step can be tried again."""
    make, wait, waits = KernelCache._make, Program.wait, []

    def failing(kernels, dispatch, num_bindings):
        if "top_k" in dispatch.shader:
            raise DeviceError("no pipeline today")
        return make(kernels, dispatch, num_bindings)

    with monkeypatch.context() as patched:
        patched.setattr(KernelCache, "_make", failing)
        patched.setattr(Program, "wait", lambda program: (waits.append(program), wait(program))[1])
        with pytest.raises(DeviceError, match="no pipeline today"):
            logits(runner)
    (plan,) = runner.executor._plans.values()
    assert len(waits) > 1 and waits == plan.programs[: len(waits)]
    found = logits(runner)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found.view(np.uint32), logits(runner).view(np.uint32))
