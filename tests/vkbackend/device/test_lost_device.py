"""After a device was lost: the call that lost it raises DeviceLost, and the next one works on a newly opened device."""

import numpy as np
import pytest
from tiny_gguf import write_tiny_gguf

import vkbackend
from vkbackend.device import dispatch, kernel_cache, shaders
from vkbackend.device.buffers import Arena
from vkbackend.errors import DeviceError, DeviceLost
from vkbackend.loading import load

X = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)


@pytest.fixture
def device(device):
    """A device that belongs to the test, which may lose it."""
    return vkbackend.open_device(device.info.index)


def lose(device) -> None:
    """Give up on a step at once, as if the driver hung."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dispatch.Recording.wait, "__defaults__", (0,))
        with pytest.raises(DeviceLost, match="The next call opens the device again"):
            for _ in range(100):  # a wait of 0 ns may find a short step done
                vkbackend.run_op(device, "softmax", np.zeros((64, 40_000), np.float32))
    assert device.is_lost


def test_an_op_runs_on_a_device_that_was_lost(device):
    expected = vkbackend.run_op(device, "softmax", X)
    lose(device)
    np.testing.assert_array_equal(vkbackend.run_op(device, "softmax", X), expected)
    assert not device.is_lost and device.generation == 1


def test_a_model_loads_on_a_device_that_was_lost(device, tmp_path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "q8_0")
    lose(device)
    assert load(path, device).device is device
    assert not device.is_lost


def test_a_session_loads_its_model_again_after_a_loss(device, tmp_path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "q8_0")
    session = vkbackend.Session(path, device, keep=True)
    tokens = [1, 2, 3]
    expected = session.logits(tokens)
    hidden = np.ones((2, session.model.config.width), np.float32)
    expected_layer = session.run_layer(0, hidden)
    lose(device)
    np.testing.assert_array_equal(session.logits(tokens), expected)
    lose(device)
    np.testing.assert_array_equal(session.run_layer(0, hidden), expected_layer)
    lose(device)
    with pytest.raises(ValueError):
        session.read("blk.0.attn_norm")  # the step that computed it is gone


def test_a_session_that_loses_its_device_says_so(device, tmp_path, monkeypatch):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "q8_0")
    session = vkbackend.Session(path, device)

    def lost(*_):
        device.is_lost = True
        raise DeviceLost("lost")

    monkeypatch.setattr(dispatch.Program, "submit", lost)
    with pytest.raises(DeviceLost):
        session.logits([1, 2, 3])
    monkeypatch.undo()
    assert np.isfinite(session.logits([1, 2, 3])).all()


def test_buffers_of_a_lost_device_are_refused(device):
    arena = Arena(device, "device", 1 << 16)
    old = arena.allocate(64)
    lose(device)
    device.reopen_if_lost()
    new = Arena(device, "device", 1 << 16).allocate(64)
    recorder = dispatch.Recorder(device)
    for source, target in ((old, new), (new, old)):
        with pytest.raises(DeviceLost, match="this buffer was made before"):
            recorder.copy(source.memory, 0, target.memory, 0, 64)
    recorder.copy(new.memory, 0, new.memory, 32, 16)


COPY = """#version 450
layout(local_size_x = 1) in;
layout(std430, binding = 0) writeonly buffer Y {{ float y[]; }};
void main() {{ y[0] = {value}.0; }}
"""


def test_a_device_keeps_only_the_last_added_shaders(device):
    code = shaders.compile_glsl(COPY.format(value=1))
    for value in range(kernel_cache.MOST_ADDED + 2):
        device.kernels.add(f"added-{value}", code)
    with pytest.raises(DeviceError, match="no shader variant 'added-1'"):
        shaders.interface("added-1")
    assert shaders.interface("added-2").constants == {}


def test_added_shaders_go_with_their_device(device):
    device.kernels.add("added", shaders.compile_glsl(COPY.format(value=1)))
    assert shaders.interface("added").push == {}
    device.close()
    with pytest.raises(DeviceError, match="no shader variant 'added'"):
        shaders.interface("added")
