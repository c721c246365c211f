"""Whatever a client sends, the server keeps running, the store stays intact, and the error says what is wrong and what
to do.

One real server on the default device; after every case a valid model still answers.
"""

import hashlib
import http.client
import json
import struct
import time
import urllib.error
import urllib.request

import pytest
from create_requests import TIMEOUT, call, create, upload
from gguf import GGUFReader
from live_server import LiveServer
from tiny_gguf import write_tiny_gguf
from vulkan_drivers import missing


def generate(server, name, **more):
    return call(
        server,
        "/api/generate",
        {"model": name, "prompt": "ab", "stream": False, "raw": True, "options": {"num_predict": 2}, **more},
    )


def names(server):
    with urllib.request.urlopen(server.url + "/api/tags", timeout=TIMEOUT) as answer:
        return sorted(model["name"] for model in json.load(answer)["models"])


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "sound.gguf").read_bytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory, sound):
    with LiveServer(tmp_path_factory.mktemp("store"), environment={"OLLAMA_VULKAN": "1"}) as running:
        assert create(running, "sound", upload(running, sound))[0] == 200
        assert generate(running, "sound")[0] == 200
        yield running


@pytest.fixture(autouse=True)
def still_works(server):
    before = names(server)
    yield
    assert server.process.poll() is None
    assert names(server) == before
    status, answer = generate(server, "sound")
    assert status == 200 and answer["eval_count"] > 0


def refused(server, data: bytes) -> str:
    """Create a model from `data` and use it. Returns the error of whichever step was refused, and removes the model."""
    status, answer = create(server, "broken", upload(server, data))
    if "error" not in answer:
        status, answer = generate(server, "broken")
        assert call(server, "/api/delete", {"model": "broken"}, method="DELETE")[0] == 200
        assert status >= 400
    return answer["error"]


def field_offset(path, name: str) -> int:
    """Position of the tensor's offset field: 8 bytes."""
    tensor = next(tensor for tensor in GGUFReader(path).tensors if tensor.name == name)
    return tensor.field.offset + sum(part.nbytes for part in tensor.field.parts[:-1])


def replaced(data: bytes, at: int, layout: str, value) -> bytes:
    return data[:at] + struct.pack(layout, value) + data[at + struct.calcsize(layout) :]


def test_not_a_gguf(server):
    assert "gguf" in refused(server, b"PK\x03\x04 this is a zip file" + bytes(1000)).lower()


@pytest.mark.parametrize("kept", [3, 20, 700, 0.5, 0.99])
def test_truncated(server, sound, kept):
    error = refused(server, sound[: kept if isinstance(kept, int) else int(len(sound) * kept)])
    assert any(word in error for word in ("damaged", "cut short", "GGUF"))


def test_tensor_offset_out_of_range(server, sound, tmp_path):
    path = tmp_path / "sound.gguf"
    path.write_bytes(sound)
    error = refused(server, replaced(sound, field_offset(path, "blk.1.attn_k.weight"), "<Q", 1 << 50))
    assert "blk.1.attn_k.weight" in error


def test_unknown_tensor_type(server, sound, tmp_path):
    path = tmp_path / "sound.gguf"
    path.write_bytes(sound)
    error = refused(server, replaced(sound, field_offset(path, "blk.1.attn_k.weight") - 4, "<I", 201))
    assert "blk.1.attn_k.weight" in error and "201" in error


def test_unknown_architecture(server, sound):
    error = refused(server, sound.replace(b"llama", b"lhama"))
    assert "lhama" in error and "llama" in error  # which it is, and which there are


def test_metadata_of_the_wrong_type(server, sound):
    key = b"llama.block_count"
    at = sound.index(key) + len(key)
    error = refused(server, replaced(sound, at, "<I", 6))  # a float where a count belongs
    assert "llama.block_count" in error


def test_larger_than_memory(server, sound, tmp_path):
    digest = hashlib.sha256(b"larger than memory").hexdigest()
    huge = write_tiny_gguf(tmp_path / "huge.gguf", num_layers=1)
    data = huge.read_bytes()
    end, offset, size = len(data), field_offset(huge, "token_embd.weight"), 1 << 41
    # The embedding alone is made to take two tebibytes: its rows are counted up, and it lies behind everything else in
    # a sparse file.
    alignment = -end % 32
    info = next(tensor for tensor in GGUFReader(huge).tensors if tensor.name == "token_embd.weight")
    start = GGUFReader(huge).data_offset
    data = replaced(data, offset, "<Q", end + alignment - start)
    data = replaced(data, offset - 4 - 8, "<Q", size // (int(info.n_bytes) // int(info.shape[1])))
    blob = server.models_folder / "blobs" / f"sha256-{digest}"
    with open(blob, "wb") as file:
        file.write(data)
        file.truncate(end + alignment + size + (1 << 20))
    try:
        status, answer = create(server, "huge", f"sha256:{digest}")
        assert status == 200, answer
        status, answer = generate(server, "huge")
        assert status == 500 and "GiB" in answer["error"] and "available" in answer["error"], answer
        assert call(server, "/api/delete", {"model": "huge"}, method="DELETE")[0] == 200
    finally:
        blob.unlink(missing_ok=True)


def test_context_larger_than_memory(server, tmp_path):
    digest = upload(server, write_tiny_gguf(tmp_path / "long.gguf", context_length=1 << 24).read_bytes())
    assert create(server, "long", digest)[0] == 200
    status, answer = generate(server, "long", options={"num_ctx": 1 << 24})
    assert status == 400 and "num_ctx" in answer["error"], answer
    assert call(server, "/api/delete", {"model": "long"}, method="DELETE")[0] == 200


def test_client_that_goes_away_in_mid_stream(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
    body = {
        "model": "sound",
        "prompt": "ab",
        "raw": True,
        "options": {"num_predict": 400, "num_ctx": 512, "repeat_penalty": 1.3},
    }
    connection.request("POST", "/api/generate", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200 and answer.readline()
    connection.sock.close() if connection.sock else answer.close()
    begin = time.monotonic()
    assert (
        generate(server, "sound", options={"num_predict": 2, "num_ctx": 512})[0] == 200
    )  # does not wait for 400 tokens
    assert time.monotonic() - begin < 30


def test_upload_that_is_cut(server):
    digest = "sha256:" + hashlib.sha256(b"x" * 1000).hexdigest()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
    connection.putrequest("POST", f"/api/blobs/{digest}")
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    connection.send(b"x" * 300)
    connection.close()
    time.sleep(0.2)
    status, _ = call(server, f"/api/blobs/{digest}", method="HEAD")
    assert status == 404


@pytest.mark.parametrize(
    "files, said",
    [
        ({"VK_DRIVER_FILES": "/nonexistent.json", "VK_ICD_FILENAMES": "/nonexistent.json"}, "no Vulkan driver"),
        ({"GGML_VK_VISIBLE_DEVICES": "77"}, "GGML_VK_VISIBLE_DEVICES"),
    ],
)
def test_no_device_falls_back_to_the_cpu_and_says_so(tmp_path, sound, files, said, capfd):
    with LiveServer(tmp_path, environment={"OLLAMA_VULKAN": "1", **files}) as server:
        assert create(server, "sound", upload(server, sound))[0] == 200
        status, answer = generate(server, "sound")
        assert status == 200 and answer["eval_count"] > 0
        with urllib.request.urlopen(server.url + "/api/ps", timeout=TIMEOUT) as running:
            assert json.load(running)["models"][0]["size_vram"] == 0
    log = capfd.readouterr().err
    assert said in log and "CPU" in log


def test_missing_is_a_failure_where_it_must_be(monkeypatch):
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception):
        missing("a device")
