"""`quantize`: tensors get llama.cpp's types, every type is written as `gguf` reads it, and the models run."""

import importlib.util
import json
import subprocess
import sys
import threading
import tracemalloc
import urllib.request
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
from gguf import GGMLQuantizationType, LlamaFileType
from gguf.quants import dequantize
from hugging_face_folder import write_safetensors
from live_server import free_port, wait_for_port
from places import SUPPORT
from recorded import load
from starter_models import model_path
from tiny_gguf import write_tiny_gguf
from vulkan_drivers import missing

from vkbackend.gguf.quants import FORMATS
from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.errors import ApiError
from vkbackend.server.library import create
from vkbackend.server.library.convert import CannotConvert, from_gguf, gguf_out, mixture, write_model
from vkbackend.server.library.convert.safetensors import SafetensorsFile
from vkbackend.server.library.convert.source import Source, Tensor
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.quantization import parse_file_type, quantize_target
from vkbackend.server.library.store import Store, StoreError
from vkbackend.server.wire import native
from vkbackend.session import Session

_T = GGMLQuantizationType
TARGETS = (
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q4_K_M",
    "Q4_K_S",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "Q2_K",
    "Q5_1",
    "Q5_0",
    "Q4_1",
    "Q4_0",
)
# Mean distance of a dequantized weight to what it was, in parts of the weights' mean size, as large as it may be.
BOUNDS = {
    "F32": 0.0,
    "F16": 0.0,
    "BF16": 0.004,
    "Q8_0": 0.006,
    "Q6_K": 0.03,
    "Q5_K": 0.05,
    "Q5_0": 0.06,
    "Q5_1": 0.06,
    "Q4_K": 0.1,
    "Q4_0": 0.12,
    "Q4_1": 0.12,
    "Q3_K": 0.25,
    "Q2_K": 0.45,
}


def add(store, path, **request) -> list:
    """Create "m" from a file; the reports, as (status, total, completed)."""
    with store.upload() as upload:
        upload.write(path.read_bytes())
        digest = upload.finish()
    return run_create(store, model="m", files={"m.gguf": digest}, **request)


def run_create(store, **request) -> list:
    told, ask = [], native.CreateRequest(**request)
    create.create(
        store,
        ask,
        parse_name(ask.model),
        lambda status, digest="", total=0, completed=0: told.append((status, total, completed)),
    )
    return told


def random_gguf(path, dtype=np.float16, **options):
    """A tiny model with normally distributed matrices."""
    original = GGUFFile.open(
        write_tiny_gguf(path.with_suffix(".base"), format="f16" if dtype == np.float16 else "f32", **options)
    )
    rng, source = np.random.default_rng(1), from_gguf(original)

    def of(tensor):
        if len(tensor.shape) == 1:
            return tensor
        values = (rng.standard_normal(tensor.shape) * 0.05).astype(dtype)
        return replace(
            tensor,
            values=lambda first, last: values[first:last].astype(np.float32),
            stored=lambda first, last: values[first:last].tobytes(),
        )

    pairs = source.pairs | {"general.file_type": gguf_out.pair("general.file_type", 1 if dtype == np.float16 else 0)}
    with open(path, "wb") as file:
        gguf_out.write(
            replace(source, pairs=pairs, tensors=[of(tensor) for tensor in source.tensors]),
            {},
            file.write,
            lambda done: None,
        )
    return path


def dequantized(gguf: GGUFFile, name: str) -> np.ndarray:
    """Dequantize with the package `gguf`, which has every type."""
    info = gguf.tensors[name]
    raw = gguf.data(name).reshape(int(np.prod(info.shape[:-1])), -1)
    plain = {_T.F32: np.float32, _T.F16: np.float16}.get(info.type)
    return raw.view(plain).astype(np.float32) if plain else dequantize(raw, info.type)


@pytest.mark.parametrize("model, file_type", [("gemma3", "Q4_K_M"), ("smollm2", "Q4_1")])
def test_types_are_those_that_llama_cpp_gave(model, file_type):
    """llama.cpp quantized the two starter models."""
    gguf = GGUFFile.open(model_path(model))
    before = [replace(tensor, type=_T.F16 if len(tensor.shape) > 1 else _T.F32) for tensor in from_gguf(gguf).tensors]
    types = mixture.types(file_type, before)
    wanted = {name: info.type.name for name, info in gguf.tensors.items()}
    assert {tensor.name: types.get(tensor.name, tensor.type).name for tensor in before} == wanted


def test_types_of_the_small_mixtures():
    """32 layers, four query heads per KV head; the layers with better types were counted by hand."""

    def matrix(name, rows, columns):
        return replace(from_gguf_tensor, name=name, shape=(rows, columns))

    from_gguf_tensor = Tensor("", (1, 1), _T.F16, None, None)
    layers = [
        matrix(f"blk.{i}.{name}.weight", rows, 4096)
        for i in range(32)
        for name, rows in (
            ("attn_q", 4096),
            ("attn_k", 1024),
            ("attn_v", 1024),
            ("attn_output", 4096),
            ("ffn_down", 4096),
        )
    ]
    tensors = [*layers, matrix("token_embd.weight", 100, 4096), matrix("output.weight", 100, 4096)]

    def of(file_type, part):
        return [mixture.types(file_type, tensors)[f"blk.{i}.{part}.weight"].name for i in range(32)]

    more = [i for i in range(32) if i < 4 or i >= 28 or (i - 4) % 3 == 2]
    for file_type, plain in (("Q4_K_M", "Q4_K"), ("Q5_K_M", "Q5_K")):
        for part in ("attn_v", "ffn_down"):
            assert of(file_type, part) == ["Q6_K" if i in more else plain for i in range(32)]
    assert of("Q4_K_S", "attn_v") == of("Q4_K_S", "ffn_down") == ["Q5_K"] * 4 + ["Q4_K"] * 28
    assert of("Q3_K_M", "attn_v") == of("Q3_K_M", "ffn_down") == ["Q5_K"] * 2 + ["Q4_K"] * 30
    assert set(of("Q3_K_M", "attn_output")) == set(of("Q2_K", "attn_v")) == {"Q4_K"}
    assert set(of("Q2_K", "ffn_down")) == set(of("Q2_K", "attn_output")) == {"Q3_K"} and set(of("Q2_K", "attn_q")) == {
        "Q2_K"
    }
    assert set(of("Q3_K_L", "attn_v")) == set(of("Q3_K_L", "attn_output")) == {"Q5_K"}
    chosen = mixture.types("Q2_K", tensors)
    assert (chosen["token_embd.weight"].name, chosen["output.weight"].name) == ("Q2_K", "Q6_K")
    assert mixture.types("Q2_K", tensors[:-1])["token_embd.weight"].name == "Q6_K"  # it is the output, too
    assert mixture.types("F32", tensors)["output.weight"].name == "F32"


@pytest.mark.parametrize(
    "width, kind, wanted",
    [
        (256, "Q4_K", "Q4_K"),
        (576, "Q4_K", "Q5_0"),
        (576, "Q5_K", "Q5_1"),
        (576, "Q6_K", "Q8_0"),
        (32, "Q2_K", "Q4_0"),
        (48, "Q3_K", "F16"),
        (48, "Q8_0", "F16"),
        (32, "Q8_0", "Q8_0"),
    ],
)
def test_rows_that_hold_no_whole_blocks(width, kind, wanted):
    assert mixture.fitting(_T[kind], width).name == wanted


@pytest.mark.parametrize("target", TARGETS)
def test_every_type_is_written_and_runs(store, tmp_path, target):
    path = random_gguf(tmp_path / "m.gguf")
    before = GGUFFile.open(path)
    told = add(store, path, quantize=target.lower())
    model = store.get("m")
    after = GGUFFile.open(model.gguf_path)
    assert model.config["file_type"] == (
        "unknown" if target == "F32" else target
    )  # F32's number is 0, which is what writers put that do not know
    if target != "F16":
        assert told[1][0] == f"quantizing F16 model to {target}" and told[-2][0] == "writing manifest"
        progress = [(total, done) for _, total, done in told if total]
        assert (
            progress == sorted(progress)
            and progress[-1] == (progress[0][0],) * 2 == (sum(info.num_bytes for info in after.tensors.values()),) * 2
        )
    assert after.metadata["general.file_type"] == (0 if target == "F32" else int(LlamaFileType[f"MOSTLY_{target}"]))
    was, now = (
        {key: str(gguf.metadata[key]) for key in gguf.metadata if key != "general.file_type"}
        for gguf in (before, after)
    )
    assert now == was
    assert list(after.tensors) == sorted(before.tensors)
    for name, info in after.tensors.items():
        was, now = dequantized(before, name), dequantized(after, name)
        if len(info.shape) == 1:
            np.testing.assert_array_equal(now, was)
        else:
            assert np.abs(now - was).mean() <= BOUNDS[info.type.name] * np.abs(was).mean(), (name, info.type.name)
    was, now = Session(path), Session(model.gguf_path)
    tokens = was.tokenizer.encode("the and hell on")
    assert np.corrcoef(was.logits(tokens).ravel(), now.logits(tokens).ravel())[0, 1] > (
        0.8 if target[:2] in ("Q2", "Q3") else 0.93
    )


@pytest.mark.parametrize("dtype, level", [(np.float32, "F32"), (np.float16, "F16")])
def test_a_model_is_quantized_from_another(store, tmp_path, dtype, level):
    path = random_gguf(tmp_path / "m.gguf", dtype)
    add(store, path, system="Be kind.")
    told = run_create(store, model="small", from_="m", quantize="q4_K_M")
    assert told[0][0] == f"quantizing {level} model to Q4_K_M"
    small, whole = store.get("small"), store.get("m")
    assert (
        small.system == "Be kind."
        and small.parent == ""
        and small.config["file_type"] == "Q4_K_M"
        and small.size < whole.size
    )
    with pytest.raises(ApiError, match="quantization is only supported for F16 and F32 models"):
        run_create(store, model="smaller", from_="small", quantize="q2_K")
    run_create(store, model="same", from_="small", quantize="q4_k_m")  # which it is already
    assert store.get("same").model_layer.digest == small.model_layer.digest
    assert [path.name for path in store.staging.folder.iterdir()] == ["lock"]


def test_a_bfloat16_model_is_quantized(store, tmp_path):
    add(store, random_gguf(tmp_path / "m.gguf"), quantize="bf16")
    assert run_create(store, model="small", from_="m", quantize="q8_0")[0][0] == "quantizing BF16 model to Q8_0"
    assert {info.type.name for info in GGUFFile.open(store.get("small").gguf_path).tensors.values()} == {"F32", "Q8_0"}


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """A real model, expanded to float16 and quantized to Q4_K_M."""
    gguf = GGUFFile.open(model_path("smollm2"))
    source = from_gguf(
        gguf
    )  # its matrices are of 4 and 8 bits, which count as quantized: here they are read as what they stand for

    def expanded(tensor):
        if len(tensor.shape) == 1:
            return tensor
        rows = gguf.data(tensor.name).reshape(tensor.num_rows, -1)
        return replace(
            tensor,
            type=_T.F16,
            values=lambda first, last: FORMATS[gguf.tensors[tensor.name].type].dequantize(rows[first:last]),
        )

    source = replace(source, tensors=[expanded(tensor) for tensor in source.tensors], level="F16")
    with Store(tmp_path_factory.mktemp("store")).upload() as upload:
        write_model(source, "Q4_K_M", upload, lambda done, total: None)
        yield upload.path


def test_smollm2_stays_what_it_is(smollm2):
    """Its perplexity barely changes."""
    was, now = Session(model_path("smollm2")), Session(smollm2)
    tokens = was.tokenizer.encode(
        "The capital of France is Paris. It lies on the river Seine, and two million people live there."
    )
    assert now.logprobs(tokens).mean() == pytest.approx(was.logprobs(tokens).mean(), abs=0.15)


def test_llama_cpp_reads_what_is_written(smollm2):
    if importlib.util.find_spec("xllamacpp") is None:
        missing("xllamacpp is not installed (bash scripts/setup.sh --tests)")
    prompt, port = "The capital of France is", free_port()
    process = subprocess.Popen(
        [sys.executable, SUPPORT / "llama_cpp_server.py", smollm2, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.stdout.readline()
        wait_for_port(port, process)
        body = json.dumps({"prompt": prompt, "max_tokens": 6, "temperature": 0}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = json.load(answer)["choices"][0]["text"]
    finally:
        process.communicate()  # its input ends, and so does it
    session = Session(smollm2)
    tokens = session.tokenizer.encode(prompt)
    start = len(tokens)
    for _ in range(6):
        tokens.append(int(session.logits(tokens)[-1].argmax()))
    assert session.tokenizer.decode(tokens[start:]).decode() == text


def test_a_large_tensor_takes_little_memory(tmp_path):
    width, rows = 4096, 8192
    path = write_safetensors(tmp_path / "model.safetensors", {"x": np.zeros((rows, width), np.float16)}, "F16")
    stored = SafetensorsFile(path, "model.safetensors").tensors["x"]
    tensor = Tensor(
        "blk.0.ffn_up.weight", stored.shape, _T.F16, lambda first, last: stored.rows(slice(first, last)), None
    )
    source = Source("F16", {}, [tensor], lambda: None)
    taken = 0

    def take(piece):
        nonlocal taken
        taken += len(piece)

    tracemalloc.start()
    try:
        gguf_out.write(source, {tensor.name: _T.Q8_0}, take, lambda done: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken > rows * width and peak < 40 << 20 < 2 * rows * width  # 64 MiB as float16, 128 MiB as float32


def test_a_client_that_left_ends_it(store, tmp_path):
    path, left = random_gguf(tmp_path / "m.gguf"), threading.Event()
    left.set()
    with store.upload() as upload, pytest.raises(CannotConvert, match="the client closed the request"):
        write_model(from_gguf(GGUFFile.open(path)), "Q8_0", upload, lambda done, total: None, left.is_set)


def test_a_disk_without_room_is_said_at_once(store, tmp_path, monkeypatch):
    path = random_gguf(tmp_path / "m.gguf")
    add(store, path)
    before = sorted(store.blobs.iterdir())
    monkeypatch.setattr("shutil.disk_usage", lambda folder: namedtuple("usage", "free")(1000))
    with pytest.raises(
        StoreError, match="needs 1.4 MB more; the disk has 1 KB free: remove other models, or set OLLAMA_MODELS"
    ):
        run_create(store, model="small", from_="m", quantize="q8_0")
    assert sorted(store.blobs.iterdir()) == before


def test_names_of_types():
    for vector in load(
        "ggml_types", kind="parse_file_type"
    ):  # recorded ones mean what they meant, some of those refused there are taken
        if "error" not in vector:
            assert quantize_target(vector["input"]) == parse_file_type(vector["input"])
    meant = {"q3_k": "Q3_K_M", "Q4_K": "Q4_K_M", "q5_K": "Q5_K_M", "q6_k": "Q6_K", "bf16": "BF16", "q4_0": "Q4_0"}
    assert {text: quantize_target(text) for text in meant} == meant
    assert {quantize_target(target.lower()) for target in TARGETS} == set(TARGETS)
    for text in ("Q9_Z", "", "Q4_K_L", "IQ4_XS", "../x"):
        with pytest.raises(
            ValueError, match="unsupported quantization type .* - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"
        ):
            quantize_target(text)
