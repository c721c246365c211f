"""Pulls that end early are resumed, and pulls of the same blob share it."""

import os
import time

from fault_proxy import Slow, Stall
from registry_world import (
    BLOBS,
    DIGEST,
    MODEL_BYTES,
    Pulling,
    digest_of,
    is_whole,
    name,
    pull,
    sent_bytes,
)
from vulkan_drivers import start

from vkbackend.server.library import registry
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.registry import partial


def test_a_client_that_leaves_keeps_what_has_come(proxy, store):
    proxy.fault = lambda seen: Slow(300_000) if seen.kind == BLOBS else None
    first = Pulling(store, name(proxy))
    assert first.told.arrived.wait(10)
    first.stop()
    assert isinstance(first.error, registry.Cancelled)
    kept = partial.num_present(partial.folder_of(store), DIGEST)
    assert 0 < kept < MODEL_BYTES and not store.manifests.exists()
    proxy.forget()
    told = pull(store, name(proxy))
    assert is_whole(store, name(proxy)) and sent_bytes(proxy) == MODEL_BYTES - kept
    assert next(line for line in told.lines if line[1] == DIGEST)[3] >= kept


def test_two_pulls_of_one_blob_share_it(proxy, store):
    proxy.fault = lambda seen: Slow(600_000) if seen.kind == BLOBS else None
    first, second = Pulling(store, name(proxy)), Pulling(store, name(proxy))
    assert first.told.arrived.wait(10) and second.told.arrived.wait(10)
    third = Pulling(store, name(proxy))
    third.stop()  # those that stay are not disturbed
    first.end(), second.end()
    assert (first.error, second.error) == (None, None) and isinstance(third.error, registry.Cancelled)
    assert is_whole(store, name(proxy)) and sent_bytes(proxy) == MODEL_BYTES


def test_a_pull_that_waited_for_a_failed_download_starts_its_own(proxy, debian, store):
    proxy.fault = lambda seen: Stall(50_000) if seen.kind == BLOBS else None
    first = Pulling(
        store, name(proxy), limits=registry.TransferLimits(tries=1, stall_seconds=1, least_part_bytes=256 << 10)
    )
    assert first.told.arrived.wait(10)
    second = Pulling(store, name(debian))
    first.end(), second.end()
    assert isinstance(first.error, registry.RegistryError) and second.error is None
    assert is_whole(store, name(debian))


PULL = """
import json
import sys
from registry_world import LIMITS
from vkbackend.server.library import registry
from vkbackend.server.library.store import Store

def report(status, digest="", total=0, completed=0):
    if completed > 500_000:
        print(status, flush=True)

registry.pull(Store(sys.argv[1]), sys.argv[2], report, insecure=True, limits=LIMITS)
print(json.dumps("done"))
"""


def test_a_killed_pull_resumes(proxy, store):
    kept = 0
    for delay in (0.05, 0.0, 0.2):
        proxy.fault = lambda seen: Slow(100_000) if seen.kind == BLOBS else None
        process = start(PULL, store.root, name(proxy))
        assert process.stdout.readline().startswith(f"pulling {DIGEST[7:19]}")
        time.sleep(delay)
        process.kill()
        process.communicate()
        before, kept = kept, partial.num_present(partial.folder_of(store), DIGEST)
        assert kept >= before and not store.blob_path(DIGEST).exists() and store.list() == []
    proxy.forget()
    pull(store, name(proxy))
    assert is_whole(store, name(proxy)) and sent_bytes(proxy) == MODEL_BYTES - kept


def test_parts_damaged_by_a_power_cut_are_downloaded_again(proxy, store):
    """The state claims all bytes, but the file has holes."""
    opened = partial.open_partial(partial.folder_of(store), DIGEST, MODEL_BYTES, 1_000_000)
    for part in opened.parts[1:]:
        part.completed = part.size
    opened.save()
    opened.close()
    told = pull(store, name(proxy))
    assert is_whole(store, name(proxy)) and sent_bytes(proxy) == 1_000_000 + MODEL_BYTES
    assert [line[3] for line in told.lines if line[1] == DIGEST][0] == 2_000_000


def test_waits_for_another_process_downloading_the_same_blob(proxy, store):
    proxy.fault = lambda seen: Slow(800_000) if seen.kind == BLOBS else None
    process = start(PULL, store.root, name(proxy))
    assert process.stdout.readline().startswith(f"pulling {DIGEST[7:19]}")
    told = pull(store, name(proxy))
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and '"done"' in out, err
    assert is_whole(store, name(proxy)) and sent_bytes(proxy) == MODEL_BYTES
    assert [line for line in told.lines if line[1] == DIGEST and 0 < line[3] < MODEL_BYTES]  # how far the other one is


def test_a_state_that_does_not_fit_is_thrown_away(proxy, store):
    path = partial.partial_path(partial.folder_of(store), DIGEST)
    for state in (
        b"",
        b"[]",
        b'{"size":3000000,"parts":[[0,3000000,3000000]]}',
        b'{"size":3000000,"parts":[[0,5,1],["a",2]]}',
        b'{"size":3000000,"parts":[[0,10,5]]}',
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_bytes(state)
        pull(store, name(proxy))
        assert is_whole(store, name(proxy))
        store.delete(parse_name(name(proxy)))


def test_abandoned_parts_are_removed(proxy, store):
    old = partial.partial_path(partial.folder_of(store), digest_of(b"old"))
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    os.utime(old, (0, 0))
    pull(store, name(proxy))
    assert not old.exists()
