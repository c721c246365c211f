"""Fixtures of the tests in this folder."""

import os
import threading
from http.server import ThreadingHTTPServer

import pytest
from terminal_world import Canned


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Canned)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("home")
    yield os.environ | {
        "OLLAMA_HOST": f"127.0.0.1:{server.server_port}",
        "HOME": str(folder),
        "VKBACKEND_CACHE": str(folder / "cache"),
        "OLLAMA_MODELS": str(folder / "models"),
        "TERM": "xterm",
    }
    server.shutdown()
    server.server_close()
