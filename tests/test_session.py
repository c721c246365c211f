"""A model opened for looking inside: what it refuses, in the same words on a device and on the twins."""

import numpy as np
import pytest
from tiny_gguf import write_tiny_gguf

from vkbackend.session import Session


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", "llama", "q8_0")


@pytest.fixture(params=["device", "twins"])
def session(request, path):
    """session(**options) -> a Session on the device, or on the twins."""
    device = request.getfixturevalue("device") if request.param == "device" else None
    return lambda **options: Session(path, device, context_length=64, **options)


def test_read_needs_keep_and_a_step(session):
    with pytest.raises(ValueError, match="without keep=True"):
        session().read("blk.0.attn_norm")
    kept = session(keep=True)
    with pytest.raises(ValueError, match="run a step first"):
        kept.read("blk.0.attn_norm")
    kept.logits([1, 2, 3])
    assert np.isfinite(kept.read("blk.0.attn_norm")[:3]).all()
    with pytest.raises(KeyError, match="nothing; there are: .*blk.0.attn_norm"):
        kept.read("nothing")


def test_timings_need_timestamps_and_a_step(device, path):
    with pytest.raises(ValueError, match="without timestamps=True"):
        Session(path, device, context_length=64).timings()
    timed = Session(path, device, context_length=64, timestamps=True)
    with pytest.raises(ValueError, match="run a step first"):
        timed.timings()
    timed.logits([1])
    assert timed.timings()


def test_twins_have_no_timings(path):
    with pytest.raises(ValueError, match="open a device"):
        Session(path, None, context_length=64, timestamps=True).timings()


def test_one_layer_is_the_same_on_device_and_twins(device, path):
    width = Session(path, None, context_length=64).model.config.width
    x = np.random.default_rng(3).standard_normal((5, width), np.float32)
    on_device, twin = (Session(path, where, context_length=64, kv_type="f32").run_layer(1, x) for where in (device, None))
    np.testing.assert_allclose(on_device, twin, rtol=0, atol=3e-5 * np.abs(twin).max())


def test_layer_says_what_it_takes(session):
    opened = session()
    width, layers = opened.model.config.width, opened.model.config.num_layers
    for layer, x, said in ((0, np.zeros((2, width + 4), np.float32), rf"x is float32 \(2, {width + 4}\), must be float32 \(T, {width}\)"),
                           (0, np.zeros(width, np.float32), rf"x is float32 \({width},\), must be"),
                           (0, np.zeros((0, width), np.float32), r"x .*must be"),
                           (0, np.zeros((2, width)), "x is float64 .*must be float32"),
                           (layers, np.zeros((2, width), np.float32), f"layer is {layers}, must be 0 ... {layers - 1}"),
                           (-1, np.zeros((2, width), np.float32), "layer is -1")):
        with pytest.raises(ValueError, match=said):
            opened.run_layer(layer, x)
