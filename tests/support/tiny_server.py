"""A server process with one tiny model."""

import hashlib

from tiny_gguf import write_tiny_gguf


def with_model(server, folder):
    """A tiny model `m` in the server's store."""
    model = write_tiny_gguf(folder / "tiny.gguf").read_bytes()
    digest = "sha256:" + hashlib.sha256(model).hexdigest()
    assert server.call("POST", f"/api/blobs/{digest}", model)[0] == 201
    assert server.call("POST", "/api/create", {"model": "m", "files": {"m.gguf": digest}})[0] == 200
