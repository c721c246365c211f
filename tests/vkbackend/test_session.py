"""A model opened for inspection: what it rejects, with the same messages on a device and on the twins."""

import numpy as np
import pytest
from tiny_gguf import write_tiny_gguf

from vkbackend.errors import OutOfMemory, RequestError
from vkbackend.session import Session


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", "llama", "q8_0")


@pytest.fixture(params=["device", "twins"])
def session(request, path):
    """session(**options): a Session on the device, or on the twins."""
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
    on_device, twin = (
        Session(path, where, context_length=64, kv_type="f32").run_layer(1, x) for where in (device, None)
    )
    np.testing.assert_allclose(on_device, twin, rtol=0, atol=3e-5 * np.abs(twin).max())


def test_layer_says_what_it_takes(session):
    opened = session()
    width, layers = opened.model.config.width, opened.model.config.num_layers
    for layer, x, said in (
        (
            0,
            np.zeros((2, width + 4), np.float32),
            rf"x is float32 \(2, {width + 4}\); it must be float32 \(T, {width}\)",
        ),
        (0, np.zeros(width, np.float32), rf"x is float32 \({width},\); it must be"),
        (0, np.zeros((0, width), np.float32), r"x .*must be"),
        (0, np.zeros((2, width)), "x is float64 .*must be float32"),
        (layers, np.zeros((2, width), np.float32), f"layer is {layers}; it must be 0 ... {layers - 1}"),
        (-1, np.zeros((2, width), np.float32), "layer is -1"),
    ):
        with pytest.raises(ValueError, match=said):
            opened.run_layer(layer, x)


@pytest.mark.parametrize(
    "tokens, said",
    [
        ("The capital", "tokens is str; it must be a list of token ids: session.tokenizer.encode"),
        (b"ab", "tokens is bytes"),
        (None, "tokens is NoneType"),
        (7, "tokens is int"),
        ([1, "2"], r"tokens\[1\] is '2' \(str\)"),
        ([1.5], r"tokens\[0\] is 1.5"),
        ([True], r"tokens\[0\] is True"),
        (np.ones((2, 2), np.int64), r"tokens\[0\] is array"),
        ([1, -1], r"tokens\[1\] is -1, which is outside of the vocabulary"),
        ([1, 10**30], "outside of the vocabulary"),
        ([99999], "outside of the vocabulary"),
        (list(range(1, 101)), "do not fit a context of 64"),
    ],
)
def test_a_wrong_argument_does_not_end_a_session(session, tokens, said):
    opened = session()
    for call in (opened.logits, opened.logprobs, lambda tokens: list(opened.rows(tokens))):
        with pytest.raises((ValueError, RequestError, OutOfMemory), match=said):
            call(tokens)
    with pytest.raises(ValueError, match="layer is 'x'; it must be 0"):
        opened.run_layer("x", np.zeros((1, opened.model.config.width), np.float32))
    assert opened.logprobs([5, 6, 7]).shape == (2,) and opened.logits(np.array([5, 6])).shape[0] == 2


def test_rows_that_are_not_read_to_the_end_give_way(session):
    opened = session()
    left = opened.rows(list(range(1, 41)))
    next(left)
    assert opened.logprobs([5, 6, 7]).shape == (2,)
    with pytest.raises(ValueError, match="call rows again"):
        list(left)
    assert len(list(opened.rows([1, 2]))) == 2


def test_no_tokens_have_no_numbers(session):
    opened = session()
    assert opened.logits([]).shape == (0, opened.runner.vocab_size) and opened.logprobs([]).shape == opened.logprobs(
        [3]
    ).shape == (0,)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"context_length": 0}, "context_length is 0"),
        ({"context_length": 2**40}, "context_length is 1099511627776; it must be a number of tokens, 1 to 16777216"),
        ({"context_length": "64"}, "context_length is '64'"),
        ({"device": "gpu"}, "device is 'gpu'; it must be an open device"),
    ],
)
def test_a_session_says_what_it_takes(path, options, said):
    with pytest.raises(ValueError, match=said):
        Session(path, **options)
