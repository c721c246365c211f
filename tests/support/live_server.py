"""Starts the real application in a process of its own, for tests that speak HTTP to it.

with LiveServer(models_folder) as server: urllib.request.urlopen(server.url + "/api/tags")
python tests/support/live_server.py PORT MODELS_FOLDER [LISTEN_ADDRESS]
"""

import asyncio
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

from places import ROOT

START_SECONDS = 30


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen) -> None:
    """Until `process` listens on a loopback port. Raises RuntimeError where it does not."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(
        f"the server did not start within {START_SECONDS} s, or ended with {process.poll()}; see its output"
    )


class LiveServer:
    """`url` answers while the context lasts; `process` is the server's.

    log: a file for its standard error. lag: a file in which measure_loop_lag.py keeps the lag of its event loop.
    open_files: how many it may open; 0 leaves the limit as it is.
    """

    def __init__(
        self,
        models_folder,
        port: int | None = None,
        environment: dict | None = None,
        log: Path | None = None,
        open_files: int = 0,
        lag: Path | None = None,
    ):
        self.models_folder, self.port = Path(models_folder), port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log, self._open_files, self._lag = log, open_files, lag
        self._environment = os.environ | {"OLLAMA_MODELS": str(models_folder)} | (environment or {})

    def __enter__(self):
        program = [__file__] if self._lag is None else [str(Path(__file__).with_name("measure_loop_lag.py"))]
        command = [sys.executable, *program, str(self.port), str(self.models_folder)]
        if self._lag is not None:
            command.append(str(self._lag))
        if self._open_files:
            command = ["sh", "-c", f'ulimit -n {self._open_files}; exec "$@"', "sh", *command]
        with open(self._log or os.devnull, "ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self._environment, stderr=log if self._log else None)
        try:
            wait_for_port(self.port, self.process)
        except RuntimeError:
            self.__exit__()
            raise
        return self

    def call(self, method: str, path: str, body=None) -> tuple[int, str]:
        """-> (status, text). body: bytes as they are, None for none, else JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, body if isinstance(body, bytes) or body is None else json.dumps(body))
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)


def main(
    port: str,
    models_folder: str,
    listen_address: str = "127.0.0.1",
    beside: Callable[[], Coroutine] | None = None,
) -> None:
    """`beside()` runs on the server's event loop as long as the server."""
    from scarce_memory import limit_memory

    limit_memory()  # before other modules import its functions
    from vkbackend.server.http.address import Address
    from vkbackend.server.library.store import Store
    from vkbackend.server.serving import Service, listen, serve_until, start_log

    start_log(logging.WARNING)
    service = Service(listen(Address("http", listen_address, port)), Store(models_folder))

    async def run():
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        task = asyncio.create_task(beside()) if beside else None
        await serve_until(service, stopped, lambda: None)
        if task:
            task.cancel()

    asyncio.run(run())


if __name__ == "__main__":
    main(*sys.argv[1:])
