"""The caller's side of worker.py: starts a process when it is first asked, and again where it ended; blocks.

As many processes as there are questions at the same time, which the threads that ask bound (server/pools.py); one is
enough for one after the other. A question that nobody waits for any more ends with its process.
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
WALL_SECONDS = 10  # until a question is given up; the worker itself allows less of the processor's time
LOOK_SECONDS = 0.1  # between two looks at whether anybody still waits
WORKER = Path(__file__).with_name("worker.py")


class WorkerEnded(Exception):
    """The template took too long or too much memory."""


class WorkerDoesNotStart(Exception):
    pass


class Workers:
    """The processes. May be asked from several threads."""

    def __init__(self):
        self._lock, self._idle = threading.Lock(), []

    def ask(self, template: str, variables: dict) -> dict:
        """{"text": ...} or {"error": ...}. Raises WorkerEnded and WorkerDoesNotStart; GivenUp where nobody waits any
        more.
        """
        with self._lock:
            worker = self._idle.pop() if self._idle else Worker()
        try:
            return worker.ask(template, variables)
        finally:
            with self._lock:
                self._idle.append(worker)

    def close(self):
        """End the processes that are not at work."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


def _encoded(question: dict) -> Iterator[bytes]:
    """Its line, in pieces: one call for the whole would hold up all other threads."""
    for piece in json.JSONEncoder().iterencode(question):
        yield piece.encode()
    yield b"\n"


class Worker:
    """One process, asked from one thread at a time."""

    def __init__(self):
        self._process = None

    def ask(self, template: str, variables: dict) -> dict:
        """What `Workers.ask` says."""
        question = b"".join(_encoded({"template": template, "variables": variables}))
        try:
            if self._process is None or not self._write(question):  # it may have ended for want of questions
                self._start()
                if not self._write(question):
                    raise WorkerEnded
            line = self._read_line(WALL_SECONDS)
            if not line:
                raise WorkerEnded
            return json.loads(line)
        except (WorkerEnded, cancellation.GivenUp):
            self.close()
            raise

    def _start(self):
        self.close()
        # -I: neither this folder nor the environment decides what is imported.
        self._process = subprocess.Popen(
            [sys.executable, "-I", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            bufsize=0,
        )
        if not self._read_line(START_SECONDS):
            self.close()
            raise WorkerDoesNotStart

    def _write(self, question) -> bool:
        if self._process.poll() is not None:
            return False
        try:
            left = memoryview(question)
            while left:
                left = left[self._process.stdin.write(left) :]
            return True
        except OSError:
            return False

    def _read_line(self, seconds: float) -> bytes:
        """Empty where the process ends or does not answer in time. Raises GivenUp."""
        line, until = bytearray(), time.monotonic() + seconds
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                cancellation.check()
                if not ready.select(LOOK_SECONDS):
                    if time.monotonic() > until:
                        return b""
                    continue
                piece = self._process.stdout.read(1 << 20)
                if not piece:
                    return b""
                line += piece
        return bytes(line)

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


worker = Workers()
