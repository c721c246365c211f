"""A model to be pushed and pulled: random bytes as its model layer, a template, a config; and what has come of it."""

import hashlib
import json
import os
import random
import threading
from dataclasses import replace

from fault_proxy import Answer

from vkbackend.server.library import registry
from vkbackend.server.library.model import CONFIG_TYPE, MODEL, TEMPLATE, Layer
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.registry import partial
from vkbackend.server.library.store import Store

MODEL_BYTES = 3_000_000
LIMITS = registry.TransferLimits(
    tries=4, backoff_seconds=0.02, stall_seconds=10, parallel=4, least_part_bytes=256 << 10, upload_part_bytes=1 << 20
)
IMPATIENT = replace(LIMITS, stall_seconds=0.4)
ONE_PART = replace(LIMITS, least_part_bytes=32 << 20)
BLOBS = "GET blobs"
TOKEN = "let-me-in"


def contents(seed: int = 0, size: int = MODEL_BYTES) -> bytes:
    return random.Random(seed).randbytes(size)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


DATA = contents()
DIGEST = digest_of(DATA)


def name(registry, model: str = "library/m") -> str:
    """As users write it. registry: what has a `host`."""
    return f"http://{registry.host}/{model}"


def make(store: Store, text: str, data: bytes) -> str:
    """-> the digest of the model layer."""
    layers = [
        Layer(kind, store.add_blob(piece)[0], len(piece))
        for kind, piece in ((MODEL, data), (TEMPLATE, b"{{ .Prompt }}"))
    ]
    config = b'{"model_format":"gguf","model_family":"llama"}'
    store.write_manifest(parse_name(text), Layer(CONFIG_TYPE, store.add_blob(config)[0], len(config)), layers)
    return layers[0].digest


class Told:
    """A `report` that remembers."""

    def __init__(self):
        self.lines, self.arrived = [], threading.Event()

    def __call__(self, status, digest="", total=0, completed=0):
        self.lines.append((status, digest, total, completed))
        if completed:
            self.arrived.set()

    @property
    def statuses(self) -> list[str]:
        """Each once, in order."""
        return list(dict.fromkeys(line[0] for line in self.lines))


def pull(store: Store, text: str, **settings) -> Told:
    told = Told()
    registry.pull(store, text, told, **{"insecure": True, "limits": LIMITS} | settings)
    return told


def push(store: Store, text: str, **settings) -> Told:
    told = Told()
    registry.push(store, text, told, **{"insecure": True, "limits": LIMITS} | settings)
    return told


class Pulling:
    """A pull in a thread. `stop()` is what a client does that leaves; `end()` waits; then `error` or None."""

    def __init__(self, store: Store, text: str, **settings):
        self.told, self.error, self._stopped = Told(), None, threading.Event()
        settings = {"insecure": True, "limits": LIMITS, "is_cancelled": self._stopped.is_set} | settings
        self._thread = threading.Thread(target=self._run, args=(store, text, settings))
        self._thread.start()

    def _run(self, store, text, settings):
        try:
            registry.pull(store, text, self.told, **settings)
        except Exception as error:
            self.error = error

    def stop(self) -> None:
        self._stopped.set()
        self.end()

    def end(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def is_there(store, registry) -> bool:
    return store.get(parse_name(name(registry))).gguf_path.read_bytes() == DATA


def guarded(realm: str, allowed=lambda seen: True):
    """A registry that requires a token from `realm`; its own /token gives one if `allowed(seen)`."""

    def fault(seen):
        if seen.path.startswith("/token"):
            return (
                Answer(200, body=json.dumps({"token": TOKEN}).encode())
                if allowed(seen)
                else Answer(401, body=b'{"error":"who are you?"}')
            )
        if seen.headers.get("Authorization") != f"Bearer {TOKEN}":
            challenge = (
                f'Bearer realm="{realm}",service="registry",scope="repository:library/m:pull repository:library/m:push"'
            )
            return Answer(401, {"WWW-Authenticate": challenge})

    return fault


def is_whole(store, text) -> bool:
    stored = store.get(parse_name(text))
    return stored.gguf_path.read_bytes() == DATA and stored.template == "{{ .Prompt }}" and not leftovers(store)


def leftovers(store) -> list[str]:
    folder = partial.folder_of(store)
    return sorted(os.listdir(folder)) if folder.exists() else []


def sent_bytes(proxy) -> int:
    """Bytes sent of the model layer."""
    return sum(seen.sent for seen in proxy.of_kind(BLOBS) if DIGEST in seen.path)
