"""Requests that upload a file and create a model of it."""

import hashlib
import json
import urllib.error
import urllib.request

TIMEOUT = 60


def call(server, path, body=None, method=None, data=None):
    """-> status, the last JSON line of the answer."""
    request = urllib.request.Request(
        server.url + path, data if data is not None else json.dumps(body).encode(), method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    lines = text.decode().splitlines()
    return status, json.loads(lines[-1]) if lines else {}


def upload(server, data: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    status, _ = call(server, f"/api/blobs/{digest}", method="POST", data=data)
    assert status in (200, 201)
    return digest


def create(server, name, digest):
    return call(server, "/api/create", {"model": name, "files": {"model.gguf": digest}})
