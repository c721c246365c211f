"""The caller's side of worker.py: starts worker processes and sends them requests. Calls block.

A process starts with the first request, and again after it has ended. There are as many processes as concurrent
requests, which the size of the calling thread pool bounds (server/pools.py). A cancelled request ends its process.
"""

import json
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from vkbackend import cancellation

START_SECONDS = 30
WALL_SECONDS = 10  # limit for one request; the worker's own limit on processor time is lower
POLL_SECONDS = 0.1  # between checks for cancellation
WORKER = Path(__file__).with_name("worker.py")


class WorkerEnded(Exception):
    """The worker ended: the template took too much time or memory."""


class WorkerDoesNotStart(Exception):
    """No worker process could be started."""


class Workers:
    """A pool of worker processes. Thread-safe."""

    def __init__(self):
        self._lock = threading.Lock()
        self._idle: list[Worker] = []

    def ask(self, template: str, variables: dict) -> dict:
        """Render a template. Returns {"text": ...} or {"error": ...}.

        Raises WorkerEnded, WorkerDoesNotStart, and GivenUp if the request was cancelled.
        """
        with self._lock:
            worker = self._idle.pop() if self._idle else Worker()
        try:
            return worker.ask(template, variables)
        finally:
            with self._lock:
                self._idle.append(worker)

    def close(self) -> None:
        """End the idle processes."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


def _encoded(question: dict) -> Iterator[bytes]:
    """Encode a request as a line of JSON, in pieces: a single call would block all other threads."""
    for piece in json.JSONEncoder().iterencode(question):
        yield piece.encode()
    yield b"\n"


class Worker:
    """One worker process, used by one thread at a time."""

    def __init__(self):
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, template: str, variables: dict) -> dict:
        """See `Workers.ask`."""
        question = b"".join(_encoded({"template": template, "variables": variables}))
        try:
            if self._process is None or not _write(self._process, question):  # an idle worker ends by itself
                self._process = self._start()
                if not _write(self._process, question):
                    raise WorkerEnded
            line = _read_line(self._process, WALL_SECONDS)
            if not line:
                raise WorkerEnded
            return json.loads(line)
        except (WorkerEnded, cancellation.GivenUp):
            self.close()
            raise

    def _start(self) -> "subprocess.Popen[bytes]":
        self.close()
        # -I: imports depend neither on this folder nor on the environment.
        self._process = process = subprocess.Popen(
            [sys.executable, "-I", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            bufsize=0,
        )
        if not _read_line(process, START_SECONDS):
            self.close()
            raise WorkerDoesNotStart
        return process

    def close(self) -> None:
        """End the process, if it runs. The next request starts another."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None


def _write(process: "subprocess.Popen[bytes]", question: bytes) -> bool:
    """Returns False if the process has ended."""
    if process.poll() is not None:
        return False
    assert process.stdin is not None
    try:
        left = memoryview(question)
        while left:
            left = left[process.stdin.write(left) :]
        return True
    except OSError:
        return False


def _read_line(process: "subprocess.Popen[bytes]", seconds: float) -> bytes:
    """Returns an empty line if the process ends or does not answer in time. Raises GivenUp."""
    assert process.stdout is not None
    line = bytearray()
    until = time.monotonic() + seconds
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            cancellation.check()
            if not ready.select(POLL_SECONDS):
                if time.monotonic() > until:
                    return b""
                continue
            piece = process.stdout.read(1 << 20)
            if not piece:
                return b""
            line += piece
    return bytes(line)


worker = Workers()
