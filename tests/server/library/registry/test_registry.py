"""Pull and push with Debian's docker-registry on loopback, and through a proxy with faults."""

import json
import time

import pytest
from fault_proxy import Answer, Cut, Flip, Slow, Stall, WholeOnly
from registry_world import (
    BLOBS,
    DATA,
    DIGEST,
    IMPATIENT,
    LIMITS,
    MODEL_BYTES,
    ONE_PART,
    contents,
    is_whole,
    leftovers,
    make,
    name,
    pull,
    push,
    sent_bytes,
)

from vkbackend.server.library import registry
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.registry import partial
from vkbackend.server.library.store import InvalidName, ModelNotFound, Store

# --- a registry as it should be


def test_what_is_pushed_comes_back_byte_by_byte(debian, proxy, store):
    text = name(proxy)
    told = pull(store, text)
    assert is_whole(store, text)
    source = debian.source.manifest(parse_name(f"{debian.host}/library/m"))
    assert store.manifest(parse_name(text)).digest == source.digest
    assert told.statuses == [
        "pulling manifest",
        *(f"pulling {layer.digest[7:19]}" for layer in [*source.layers, source.config]),
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    assert (f"pulling {DIGEST[7:19]}", DIGEST, MODEL_BYTES, MODEL_BYTES) in told.lines
    ranges = {seen.headers.get("Range") for seen in proxy.of_kind(BLOBS) if DIGEST in seen.path}
    assert len(ranges) == -(-MODEL_BYTES // LIMITS.part_bytes(MODEL_BYTES)) == 12
    assert sent_bytes(proxy) == MODEL_BYTES


def test_a_second_pull_fetches_nothing(proxy, store):
    pull(store, name(proxy))
    proxy.forget()
    told = pull(store, name(proxy))
    assert [seen.kind for seen in proxy.seen] == ["GET manifests"] and told.statuses[-1] == "success"


def test_a_new_version_takes_the_old_ones_place(debian, store, tmp_path):
    source, data = Store(tmp_path / "source"), contents(5, 1000)
    text = name(debian, "library/changing")
    old = make(source, text, DATA)
    push(source, text)
    pull(store, text)
    make(source, text, data)
    push(source, text)
    pull(store, text)
    assert store.get(parse_name(text)).gguf_path.read_bytes() == data and not store.blob_path(old).exists()


def test_a_damaged_blob_is_fetched_again(proxy, store):
    text = name(proxy)
    pull(store, text)
    store.blob_path(DIGEST).write_bytes(DATA[:1000])
    pull(store, text)
    assert is_whole(store, text)


@pytest.mark.parametrize("times", [1, 9])
def test_blobs_that_go_before_the_manifest_names_them_are_fetched_again(debian, store, times):
    """As if a model that shares them were deleted."""
    deleted = []

    def report(status, *_):
        if status == "writing manifest" and len(deleted) < times:
            store.blob_path(DIGEST).unlink()
            deleted.append(status)

    def run():
        registry.pull(store, name(debian), report, insecure=True, limits=LIMITS)

    if times == 1:
        run()
        assert is_whole(store, name(debian))
    else:
        with pytest.raises(registry.RegistryError, match="disappear"):
            run()
        assert not store.manifests.exists()


def test_names_with_a_host_of_their_own(debian, store, monkeypatch):
    """`hf.co/user/model:QUANT`, with a local registry instead of hf.co."""
    monkeypatch.setenv("VKBACKEND_REGISTRY_URLS", f"example.org=https://127.0.0.1:1,HF.co=http://{debian.host}/")
    text = "hf.co/user/model-gguf:Q4_K_M"
    make(debian.source, text, DATA)
    push(debian.source, text, insecure=False)
    pull(store, text, insecure=False)
    assert is_whole(store, text)
    assert (store.manifests / "hf.co" / "user" / "model-gguf" / "Q4_K_M").is_file()
    monkeypatch.setenv("VKBACKEND_REGISTRY_URLS", "hf.co")
    with pytest.raises(registry.RegistryError, match="expected host=url"):
        pull(store, text)


# --- what is refused


@pytest.mark.parametrize(
    "text, insecure, error, says",
    [
        ("http://127.0.0.1:1/library/m", False, registry.RegistryError, "insecure protocol http.*--insecure"),
        ("ftp://127.0.0.1:1/library/m", True, registry.RegistryError, "unsupported scheme ftp"),
        (
            "http://127.0.0.1:1/library/m",
            True,
            registry.RegistryError,
            "pull model manifest: could not connect to 127.0.0.1:1 .*refused",
        ),
        ("http://h:a:b/library/m", True, registry.RegistryError, "not a valid host|cannot send a request"),
        ("../../../etc/passwd", True, InvalidName, "invalid model name"),
        ("http://../library/m", True, InvalidName, "invalid model name"),
    ],
)
def test_names_that_lead_nowhere(store, text, insecure, error, says):
    started = time.monotonic()
    with pytest.raises(error, match=says):
        pull(store, text, insecure=insecure, limits=registry.TransferLimits())
    assert time.monotonic() - started < 10  # five more tries would take half a minute
    assert not store.manifests.exists()


def test_insecure_is_needed_for_http_and_taken_for_it(debian, store):
    with pytest.raises(registry.RegistryError):  # speaks TLS to a registry without
        pull(store, f"{debian.host}/library/m", insecure=False)
    pull(store, f"{debian.host}/library/m", insecure=True)
    assert is_whole(store, f"{debian.host}/library/m")


def test_unknown_models(debian, store):
    with pytest.raises(registry.RegistryError, match="pull model manifest: file does not exist.*nothing:latest"):
        pull(store, name(debian, "library/nothing"))
    with pytest.raises(ModelNotFound):
        push(store, name(debian, "library/nothing"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"layers":[]}',
        b'{"layers":[{"digest":"sha256:../../x","size":1}]}',
        b'{"layers":{"a":1}}',
        b'{"layers":[{"digest":"sha256:%s","size":-1}]}' % (b"a" * 64),
        b'{"layers":[{"size":5}]}',
        b"x" * (5 << 20),
    ],
)
def test_manifests_that_are_none(proxy, store, body):
    proxy.fault = lambda seen: Answer(200, body=body)
    with pytest.raises(registry.RegistryError, match="manifest of"):
        pull(store, name(proxy))
    assert not store.manifests.exists()


def test_more_than_the_disk_has_room_for_is_not_begun(proxy, store, monkeypatch):
    monkeypatch.setattr(partial, "free_bytes", lambda folder: 1_000_000)
    with pytest.raises(registry.RegistryError, match="3.0 MB remain to be downloaded, but only 1 MB"):
        pull(store, name(proxy))
    assert not proxy.of_kind(BLOBS)


# --- faults


def test_connections_that_are_cut(proxy, store):
    proxy.fault = lambda seen: Cut(100_000) if seen.kind == BLOBS and seen.number % 3 else None
    pull(store, name(proxy))
    assert is_whole(store, name(proxy))
    assert sent_bytes(proxy) == MODEL_BYTES  # each goes on where it was cut


def test_a_single_stream_resumes_where_it_was_cut(proxy, store):
    proxy.fault = lambda seen: (
        Cut(1_000_000) if DIGEST in seen.path and seen.kind == BLOBS and seen.number < 3 else None
    )
    pull(store, name(proxy), limits=ONE_PART)
    assert is_whole(store, name(proxy))
    assert [seen.headers.get("Range") for seen in proxy.of_kind(BLOBS)][:3] == [
        None,
        f"bytes=1000000-{MODEL_BYTES - 1}",
        f"bytes=2000000-{MODEL_BYTES - 1}",
    ]


@pytest.mark.parametrize("kind", ["GET manifests", BLOBS])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_registries_are_asked_again(proxy, store, kind, status):
    proxy.fault = lambda seen: Answer(status) if seen.kind == kind and seen.number < 4 else None
    pull(store, name(proxy))
    assert is_whole(store, name(proxy))


def test_a_registry_says_when_to_come_back(proxy, store):
    proxy.fault = lambda seen: Answer(429, {"Retry-After": "1"}) if seen.number == 1 else None
    started = time.monotonic()
    pull(store, name(proxy))
    assert 1 <= time.monotonic() - started < 30 and is_whole(store, name(proxy))


@pytest.mark.parametrize(
    "fault, says",
    [
        (
            Answer(500, body=b'{"errors":[{"code":"X","message":"out of order"}]}'),
            "status 500: out of order; tried 4 times",
        ),
        (Answer(403, body=b'{"error":"not for you"}'), "status 403: not for you"),
        (Cut(0), "tried 4 times"),
        (Answer(412, body=b"needs a newer version"), "needs a newer version"),
    ],
)
def test_what_stays_wrong_is_given_up(proxy, store, fault, says):
    proxy.fault = lambda seen: fault if DIGEST in seen.path else None
    with pytest.raises(registry.RegistryError, match=says):
        pull(store, name(proxy))
    assert not store.manifests.exists()


def test_silence_is_not_waited_out(proxy, store):
    proxy.fault = lambda seen: Stall(50_000) if seen.kind == BLOBS and seen.number in (2, 5) else None
    pull(store, name(proxy), limits=IMPATIENT)
    assert is_whole(store, name(proxy))


def test_slow_is_not_silent(proxy, store):
    proxy.fault = lambda seen: Slow(400_000) if seen.kind == BLOBS else None  # a part takes longer than silence may
    started = time.monotonic()
    told = pull(store, name(proxy), limits=IMPATIENT)
    seconds = time.monotonic() - started
    assert is_whole(store, name(proxy)) and seconds > 3 * IMPATIENT.stall_seconds
    assert 5 < len([line for line in told.lines if line[1] == DIGEST]) <= 10 * seconds + 2


@pytest.mark.parametrize("limits", [LIMITS, ONE_PART], ids=["parts", "one part"])
def test_wrong_bytes_leave_nothing_behind(proxy, store, limits):
    proxy.fault = lambda seen: Flip(1234) if DIGEST in seen.path and seen.number == 1 else None
    with pytest.raises(registry.RegistryError, match='digest mismatch, expected "sha256:.*pull again'):
        pull(store, name(proxy), limits=limits)
    assert not store.blob_path(DIGEST).exists() and not leftovers(store) and not store.manifests.exists()
    pull(store, name(proxy), limits=limits)
    assert is_whole(store, name(proxy))


@pytest.mark.parametrize("limits", [LIMITS, ONE_PART], ids=["parts", "one part"])
def test_a_registry_without_ranges(proxy, store, limits):
    """The blob comes in one piece; after a lost connection it starts from the beginning."""
    proxy.fault = lambda seen: WholeOnly(cut=700_000 if seen.number == 1 else None) if DIGEST in seen.path else None
    pull(store, name(proxy), limits=limits)
    assert is_whole(store, name(proxy))
    assert sent_bytes(proxy) == MODEL_BYTES + 700_000


def test_a_registry_that_loses_its_ranges_on_the_way(proxy, store):
    proxy.fault = lambda seen: WholeOnly() if DIGEST in seen.path and seen.number in (3, 4) else None
    pull(store, name(proxy))
    assert is_whole(store, name(proxy))


def test_a_manifest_without_sizes(proxy, store):
    manifest = json.loads(proxy_manifest(store, proxy))
    for layer in [manifest["config"], *manifest["layers"]]:
        del layer["size"]
    proxy.forget()
    proxy.fault = lambda seen: Answer(200, body=json.dumps(manifest).encode()) if seen.kind == "GET manifests" else None
    told = pull(store, name(proxy, "library/m:sizeless"))
    assert is_whole(store, name(proxy, "library/m:sizeless"))
    assert (f"pulling {DIGEST[7:19]}", DIGEST, MODEL_BYTES, MODEL_BYTES) in told.lines


def test_a_blob_of_unknown_size_is_resumed(proxy, store):
    """Neither the manifest nor the answer to HEAD gives its size, and the connection is lost."""
    manifest = json.loads(proxy_manifest(store, proxy))
    for layer in [manifest["config"], *manifest["layers"]]:
        del layer["size"]
    proxy.forget()
    cuts = [Cut(700_000)]

    def fault(seen):
        if seen.kind == "GET manifests":
            return Answer(200, body=json.dumps(manifest).encode())
        if seen.kind == "HEAD blobs":
            return Answer(200)
        return cuts.pop() if DIGEST in seen.path and cuts else None

    proxy.fault = fault
    pull(store, name(proxy, "library/m:sizeless"))
    assert is_whole(store, name(proxy, "library/m:sizeless")) and not cuts
    assert sent_bytes(proxy) == MODEL_BYTES


def test_a_size_that_the_registry_makes_up_is_not_begun(proxy, store):
    manifest = {"layers": [{"mediaType": "x", "digest": DIGEST}]}
    answers = {
        "GET manifests": Answer(200, body=json.dumps(manifest).encode()),
        "HEAD blobs": Answer(200, {"Content-Length": str(1 << 62)}),
    }
    proxy.fault = lambda seen: answers.get(seen.kind)
    with pytest.raises(registry.RegistryError, match="remain to be downloaded, but only"):
        pull(store, name(proxy))


def proxy_manifest(store, proxy) -> bytes:
    """The registry's manifest; the store is empty again afterwards."""
    pull(store, name(proxy))
    contents = store.manifest_bytes(parse_name(name(proxy)))
    store.delete(parse_name(name(proxy)))
    return contents
