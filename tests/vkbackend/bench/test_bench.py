"""What `bench` measures: rates and the least that must be moved and computed, the device's speed, profiles, traces,
plots.
"""

import importlib.util
import json
import sys

import numpy as np
import pytest
from tiny_gguf import write_tiny_gguf
from vulkan_drivers import missing

from vkbackend.bench import bench
from vkbackend.bench.device_speed import FMA_CHAINS, FMA_UNROLL, DeviceSpeed, measure_device
from vkbackend.bench.plot import comparison_groups, plot, result_groups
from vkbackend.bench.profile import StepProfile, TraceSpan, profile, write_trace
from vkbackend.bench.work import Work
from vkbackend.device.buffers import Arena
from vkbackend.device.dispatch import Dispatch, Program
from vkbackend.engine.runner import PAGE_SIZE, ModelRunner
from vkbackend.errors import RequestError, VkbackendError
from vkbackend.loading import load


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("llama") / "tiny.gguf")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return write_tiny_gguf(
        tmp_path_factory.mktemp("gemma") / "tiny.gguf", architecture="gemma3", window=16, num_layers=6
    )


def test_rates_say_what_they_moved_and_computed(device, llama):
    found = bench(llama, device, prompts=(5, 20), batches=(1, 3), tokens=4, rounds=2)
    assert [(rate.phase, rate.tokens, rate.batch) for rate in found.rates] == [
        ("prefill", 5, 1),
        ("prefill", 20, 1),
        ("decode", 4, 1),
        ("decode", 4, 3),
    ]
    work = Work(load(llama))
    for rate in found.rates:
        assert 0 < rate.slowest <= rate.rate <= rate.fastest
        assert rate.bytes_per_second == pytest.approx(rate.num_bytes * rate.rate / (rate.tokens * rate.batch))
    assert found.rates[2].flops == 4 * 2 * work.weights and found.rates[3].flops == 3 * found.rates[2].flops
    assert found.rates[3].num_bytes - found.rates[2].num_bytes == 2 * sum(
        work.cache_bytes(length) for length in range(17, 21)
    )
    document = json.loads(json.dumps(found.as_dict()))
    assert document["rates"][0]["share_of_f32"] == pytest.approx(found.rates[0].flops_per_second / found.speed.f32)


def test_rates_of_the_twins_and_of_long_contexts(llama):
    found = bench(llama, None, prompts=(4,), batches=(1,), tokens=2, rounds=1, long=True)
    assert [rate.context for rate in found.rates] == [0, 16, 64, 512 - 16]  # the model was trained for 512
    assert found.speed is None and found.memory.device_other == 0 and "share_of_f32" not in found.as_dict()["rates"][0]


def test_sizes_that_cannot_be(device, llama):
    with pytest.raises(RequestError, match="all must be at least 1"):
        bench(llama, prompts=(0,))
    with pytest.raises(RequestError, match="600 tokens do not fit the context of 512"):
        bench(llama, prompts=(600,))


def test_work_counts_each_matrix_once_and_windows_as_far_as_they_reach(llama, gemma):
    model = load(llama)
    work, matrices = (
        Work(model),
        [info for info in model.gguf.tensors.values() if len(info.shape) == 2 and info.name != "token_embd.weight"],
    )
    assert work.weight_bytes == sum(info.num_bytes for info in matrices) and work.output_weights == np.prod(
        model.gguf.tensors["output.weight"].shape
    )
    assert work.prefill_flops(1) == work.decode_flops(1) == 2 * work.weights
    assert work.prefill_bytes(300, 128) - work.prefill_bytes(300, 512) == 2 * work.weight_bytes
    tied = load(gemma)
    work, config = Work(tied), tied.config
    assert work.output_weights == np.prod(tied.gguf.tensors["token_embd.weight"].shape)
    per_token = 2 * 2 * config.num_kv_heads * config.head_dim  # keys and values, two bytes each
    num_global = sum(config.window_of(layer) == 0 for layer in range(config.num_layers))
    assert work.cache_bytes(100) == per_token * (100 * num_global + 16 * (config.num_layers - num_global))


def test_a_prompt_that_outgrows_a_window_is_measured(gemma):
    """It cannot be cut to the 16 tokens before decoding begins, whose window is gone: these run again."""
    found = bench(gemma, None, prompts=(300,), batches=(1,), tokens=1, rounds=1)
    assert [(rate.phase, rate.tokens, rate.context) for rate in found.rates] == [("prefill", 300, 0), ("decode", 1, 16)]


def test_device_speed(device):
    speed = measure_device(device)
    assert speed.read > 1e8 and speed.copy > 1e8 and speed.bandwidth == max(speed.read, speed.copy)
    assert speed.f32 > 1e8 and (speed.f16 is not None) == device.supports("float16")
    assert DeviceSpeed(1, 5, 3, None).or_better(DeviceSpeed(2, 4, 9, None)) == DeviceSpeed(2, 5, 9, None)


@pytest.mark.parametrize("shader, dtype, tolerance", [("fma_f32", np.float32, 1e-5), ("fma_f16", np.float16, 0.02)])
def test_chains_compute_what_is_counted(device, shader, dtype, tolerance):
    """A compiler that removed chains or steps would make the device look faster than it is."""
    if device.kernels.missing(shader):
        missing(f"{device.info.name} has no 16-bit arithmetic")
    sums = Arena(device, "device", 4096).allocate(64 * 4)
    Program(device, [Dispatch(shader, (), (sums,), (1, 1, 1), push={"rounds": 3, "factor": 0.75, "addend": 0.5})]).run()
    chains = (np.arange(64)[:, None] + np.arange(FMA_CHAINS)).astype(dtype)
    for _ in range(3 * FMA_UNROLL):
        chains = (chains * dtype(0.75) + dtype(0.5)).astype(dtype)
    width = 2 if dtype == np.float16 else 1
    np.testing.assert_allclose(
        device.download(sums, np.float32, (64,)), width * chains.astype(np.float32).sum(axis=1), rtol=tolerance
    )


def test_memory_beyond_weights_and_cache_is_seen(device, llama):
    """Memory that is allocated and freed during the run counts, too."""
    model = load(llama, device)
    before = device.peak_bytes = device.allocated_bytes
    device.memory(1 << 20, "device")
    assert device.peak_bytes - before == 1 << 20 and device.allocated_bytes == before
    small = bench(llama, device, prompts=(4,), batches=(1,), tokens=1, rounds=1).memory
    large = bench(llama, device, prompts=(128,), batches=(1,), tokens=1, rounds=1).memory
    assert 0 < small.device_other < large.device_other
    assert small.weights == model.num_bytes and small.process_peak >= small.process > 0


def test_profile_has_every_dispatch_of_the_step(device, llama, tmp_path):
    if not device.info.timestamp_bits:
        missing(f"{device.info.name} has no timestamps")
    decode, prefill = profiles = profile(llama, device, prompt_tokens=20, context=40)
    assert (decode.phase, decode.tokens, decode.context, prefill.tokens) == ("decode", 1, 40, 20)
    for each in profiles:
        assert sum(variant.calls for variant in each.variants) == len(each.device) and each.plain_seconds > 0
        assert sum(variant["share"] for variant in each.as_dict()["variants"]) == pytest.approx(1)
        assert 0 < each.device_seconds < each.step_seconds
        assert [span.name for span in each.host] == ["fill", "submit", "wait", "read"]
        for one, other in zip(each.host, each.host[1:]):
            assert one.begin + one.seconds == pytest.approx(other.begin, abs=1e-6)
        submit, wait = each.host[1:3]
        assert sum(span.seconds for span in each.device) <= submit.seconds + wait.seconds
    matmuls = [variant for variant in decode.variants if variant.op.startswith("matmul")]
    assert sum(variant.flops for variant in matmuls) >= Work(load(llama)).decode_flops(
        1
    )  # rows are filled up to whole groups

    write_trace(tmp_path / "trace.json", profiles, device.info.name)
    spans = spans_of_trace(tmp_path / "trace.json", device.info.name)
    assert len(spans) == sum(1 + len(each.host) + len(each.device) for each in profiles)
    placed = [span for span in spans if span["tid"] == 2 and span["cat"] == "decode"]
    assert [span["name"] for span in placed] == [span.name for span in decode.device]
    for drawn, span in zip(placed, decode.device):
        assert drawn["ts"] == pytest.approx(1e6 * span.begin, abs=0.001) and drawn["dur"] == pytest.approx(
            1e6 * span.seconds, abs=0.002
        )


def spans_of_trace(path, device_name) -> list[dict]:
    """The spans of a trace, checked against the Trace Event Format: in the order of their beginning on each track,
    none partly over another.
    """
    document = json.loads(path.read_text())
    assert document["displayTimeUnit"] in ("ms", "ns")
    names = {
        (event["name"], event.get("tid")): event["args"]["name"]
        for event in document["traceEvents"]
        if event["ph"] == "M"
    }
    assert names == {
        ("process_name", None): "vkbackend",
        ("thread_name", 1): "host",
        ("thread_name", 2): f"device: {device_name}",
    }
    spans = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert len(spans) + len(names) == len(document["traceEvents"])
    for track in (1, 2):
        open_ends, last = [], 0  # in nanoseconds
        for span in (span for span in spans if span["tid"] == track):
            begin, length = round(1e3 * span["ts"]), round(1e3 * span["dur"])
            assert (span["ts"], span["dur"]) == (begin / 1e3, length / 1e3) and length >= 0 and begin >= last
            assert span["pid"] == 1 and isinstance(span["args"], dict)
            last, open_ends = begin, [end for end in open_ends if end > begin]
            assert len(open_ends) < 3 - track and all(begin + length <= end for end in open_ends), (
                span
            )  # a step holds the host's spans
            open_ends.append(begin + length)
    return spans


def test_spans_of_odd_clocks_stay_side_by_side(tmp_path):
    """Perfetto drops spans that overlap by a nanosecond, and ticks of 1/19.2 us are not whole nanoseconds."""
    begin, device = 123.4e-6, []
    for number in range(400):
        device.append(TraceSpan(f"op {number}", begin, number * 7 % 50 / 19.2e6, {}))
        begin += device[-1].seconds
    host = [TraceSpan("submit", 1e-7, 1.234e-4, {}), TraceSpan("wait", 1.234e-4 + 1e-7, begin, {})]
    profiles = [StepProfile(phase, 1, 0, [], 0.0, 0.0, device, host) for phase in ("decode", "prefill")]
    write_trace(tmp_path / "trace.json", profiles, "odd")
    assert len(spans_of_trace(tmp_path / "trace.json", "odd")) == 2 * (1 + 400 + 2)


def test_profile_counts_the_filled_part_of_a_cache(device, llama):
    runner = ModelRunner(load(llama, device), context_length=256)
    short, long = (profile(llama, device, context=context)[0] for context in (8, 200))
    per_token = runner.storage.num_bytes / (runner.storage.layout.num_pages * PAGE_SIZE)
    attention = [
        sum(variant.num_bytes for variant in each.variants if "attention" in variant.op) for each in (short, long)
    ]
    assert attention[1] - attention[0] == pytest.approx(192 * per_token, rel=0.05)


def test_plot(llama, tmp_path, monkeypatch):
    found = bench(llama, None, prompts=(4, 8), batches=(1,), tokens=2, rounds=1)
    groups = result_groups(found)
    assert groups["prefill"][1] == ["4", "8"] and len(groups["decode"][2]["llama"]) == 1
    if importlib.util.find_spec("matplotlib") is None:
        missing("matplotlib is not installed (pip install matplotlib)")
    plot(tmp_path / "x.png", found)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(VkbackendError, match="cannot be written"):
        plot(tmp_path / "no folder" / "x.png", found)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(VkbackendError, match="pip install 'matplotlib"):
        plot(tmp_path / "y.png", found)


def test_plot_of_a_comparison_has_a_bar_for_each_server_and_size():
    from vkbackend.bench.compare import Comparison, Line, Range

    found = Comparison(
        "us",
        [
            Line("decode", 8, 1, "us", Range(3, 2, 4, 2)),
            Line("decode", 8, 1, "them", Range(1, 1, 1, 2), Range(3, 2, 4, 2)),
            Line("decode", 64, 2, "us", Range(5, 5, 5, 2)),
        ],
    )
    assert comparison_groups(found)["decode"][1:] == (
        ["8", "2 clients,\n64 each"],
        {"us": [(3, 2, 4), (5, 5, 5)], "them": [(1, 1, 1), None]},
    )
