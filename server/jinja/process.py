"""The caller's side of worker.py: starts it when it is first asked, and again where it ended. One for the whole server; blocks."""

import json
import selectors
import subprocess
import sys
import threading
import time
from pathlib import Path

START_SECONDS = 30
WALL_SECONDS = 10  # until a question is given up; the worker itself allows less of the processor's time
WORKER = Path(__file__).with_name("worker.py")


class WorkerEnded(Exception):
    """The template took too long or too much memory."""


class WorkerDoesNotStart(Exception):
    pass


class Worker:
    def __init__(self):
        self._lock, self._process = threading.Lock(), None

    def ask(self, template: str, variables: dict) -> dict:
        """{"text": ...} or {"error": ...}. Raises WorkerEnded and WorkerDoesNotStart."""
        question = json.dumps({"template": template, "variables": variables}).encode() + b"\n"
        with self._lock:
            if self._process is None or not self._write(question):  # it may have ended for want of questions
                self._start()
                if not self._write(question):
                    raise WorkerEnded
            line = self._read_line(WALL_SECONDS)
            if not line:
                self._end()
                raise WorkerEnded
            return json.loads(line)

    def close(self):
        with self._lock:
            self._end()

    def _start(self):
        self._end()
        # -I: neither this folder nor the environment decides what is imported.
        self._process = subprocess.Popen([sys.executable, "-I", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                         env={}, cwd="/", bufsize=0)
        if not self._read_line(START_SECONDS):
            self._end()
            raise WorkerDoesNotStart

    def _write(self, question) -> bool:
        if self._process.poll() is not None:
            return False
        try:
            left = memoryview(question)
            while left:
                left = left[self._process.stdin.write(left):]
            return True
        except OSError:
            return False

    def _read_line(self, seconds: float) -> bytes:
        """Empty where the process ends or does not answer in time."""
        line, until = bytearray(), time.monotonic() + seconds
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not ready.select(until - time.monotonic()):
                    return b""
                piece = self._process.stdout.read(1 << 20)
                if not piece:
                    return b""
                line += piece
        return bytes(line)

    def _end(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


worker = Worker()
