"""Push to Debian's docker-registry, and through a proxy with faults."""

import json
import os
import socket

import pytest
from docker_registry import DockerRegistry
from fault_proxy import Answer, Cut, FaultProxy
from registry_world import DATA, DIGEST, contents, make, name, pull, push

from vkbackend.server.library import registry
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.store import ModelNotFound, Store, StoreError


@pytest.fixture(scope="module")
def proxy_of_all(tmp_path_factory):
    """In front of a registry with the model library/m."""
    folder = tmp_path_factory.mktemp("registry")
    with DockerRegistry(folder / "registry") as debian, FaultProxy(debian.host) as proxy:
        make(Store(folder / "source"), f"{debian.host}/library/m", DATA)
        push(Store(folder / "source"), f"{debian.host}/library/m")
        yield proxy


@pytest.fixture
def proxy(proxy_of_all):
    proxy_of_all.forget()
    return proxy_of_all


@pytest.fixture
def source(tmp_path):
    return Store(tmp_path / "source")


def test_push_sends_only_what_is_missing(proxy, source):
    make(source, name(proxy), DATA)
    told = push(source, name(proxy))
    assert not proxy.of_kind("PATCH uploads") and told.statuses[-2:] == ["pushing manifest", "success"]


@pytest.mark.parametrize(
    "number, fault",
    [
        (n, fault)
        for n, fault in enumerate(
            (
                lambda seen: Answer(500) if seen.kind == "PATCH uploads" and seen.number in (1, 2) else None,
                lambda seen: (
                    Answer(429, {"Retry-After": "0"}) if seen.kind == "PUT uploads" and seen.number == 1 else None
                ),
                lambda seen: Cut(300_000) if seen.kind == "PATCH uploads" and seen.number == 2 else None,
                lambda seen: Answer(503) if seen.kind == "PUT manifests" and seen.number == 1 else None,
                lambda seen: (
                    Answer(404)
                    if seen.kind == "GET uploads"
                    else Answer(502)
                    if seen.kind == "PATCH uploads" and seen.number == 2
                    else None
                ),
            )
        )
    ],
)
def test_interrupted_uploads_resume(proxy, source, tmp_path, number, fault):
    text, data = name(proxy, f"library/pushed-{number}"), contents(100 + number)
    make(source, text, data)
    proxy.fault = fault
    push(source, text)
    assert len({seen.path.partition("?")[0] for seen in proxy.of_kind("PATCH uploads")}) >= 2  # the model's and others'
    fetched = Store(tmp_path / "fetched")
    pull(fetched, text)
    assert fetched.get(parse_name(text)).gguf_path.read_bytes() == data


def test_a_piece_that_got_no_answer_is_sent_again_alone(proxy, source):
    text = name(proxy, "library/unanswered")
    make(source, text, contents(200))
    proxy.fault = lambda seen: Answer(500) if seen.kind == "PATCH uploads" and seen.number == 2 else None
    push(source, text)
    ranges = [seen.headers["Content-Range"] for seen in proxy.of_kind("PATCH uploads")][:4]
    assert ranges == ["0-1048575", "1048576-2097151", "1048576-2097151", "2097152-2999999"]


def test_an_upload_that_hangs_is_given_up(proxy, source):
    """The server accepts the connection and reads nothing."""
    text = name(proxy, "library/hanging")
    make(source, text, contents(201, 12_000_000))
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        location = f"http://127.0.0.1:{deaf.getsockname()[1]}/v2/up"
        proxy.fault = lambda seen: Answer(202, {"Location": location}) if seen.kind == "POST uploads" else None
        limits = registry.TransferLimits(tries=2, backoff_seconds=0.02, stall_seconds=0.3)
        with pytest.raises(registry.RegistryError, match="accepted no data|sent nothing"):
            push(source, text, limits=limits)


def test_a_layer_of_another_model_there_is_not_sent_again(proxy, source):
    """The registry mounts it from the base model."""
    text = name(proxy, "library/derived")
    make(source, text, DATA)
    manifest = json.loads(source.manifest_bytes(parse_name(text)))
    manifest["layers"][0]["from"] = f"{proxy.host}/library/m:latest"
    source.write_manifest_bytes(parse_name(text), json.dumps(manifest).encode())
    proxy.fault = lambda seen: Answer(404) if seen.method == "HEAD" else None
    push(source, text)
    assert not any(DIGEST in seen.path for seen in proxy.of_kind("PUT uploads"))


@pytest.mark.parametrize(
    "source_of_layer, goes",
    [("/home/me/.ollama/models/blobs/sha256-1", True), ("C:\\Users\\me\\m.gguf", True), ("library/m:latest", False)],
)
def test_local_paths_of_layers_are_not_sent(proxy, source, tmp_path, source_of_layer, goes):
    text = name(proxy, "library/told")
    make(source, text, DATA)
    manifest = json.loads(source.manifest_bytes(parse_name(text)))
    manifest["layers"][0]["from"] = source_of_layer
    source.write_manifest_bytes(parse_name(text), json.dumps(manifest).encode())
    push(source, text)
    fetched = Store(tmp_path / "fetched")
    pull(fetched, text)
    got = fetched.manifest_bytes(parse_name(text))
    assert (source_of_layer.encode() not in got) == goes and (got == source.manifest_bytes(parse_name(text))) == (
        not goes
    )
    del manifest["layers"][0]["from"]
    assert not goes or json.loads(got) == manifest


def test_models_that_are_not_whole_are_not_pushed(proxy, source):
    text = name(proxy, "library/half")
    with pytest.raises(ModelNotFound, match="half"):
        push(source, text)
    source.blob_path(make(source, text, contents(202))).unlink()
    with pytest.raises(registry.RegistryError, match="cannot be read"):
        push(source, text)
    os.mkfifo(source.blob_path(source.manifest(parse_name(text)).layers[0].digest))
    with pytest.raises(registry.RegistryError, match="cannot be read .not a regular file"):
        push(source, text)
    (source.manifests / parse_name(text).file_path).write_bytes(b"{")
    with pytest.raises(StoreError, match="damaged"):
        push(source, text)
    assert not proxy.of_kind("PUT manifests")


def test_a_blob_that_is_not_what_it_says_is_refused_by_the_registry(proxy, source):
    text = name(proxy, "library/flipped")
    path = source.blob_path(make(source, text, contents(203)))
    path.write_bytes(bytes(len(contents(203))))
    with pytest.raises(registry.RegistryError, match="status 400: .*digest"):
        push(source, text)
    assert not proxy.of_kind("PUT manifests")
