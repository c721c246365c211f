"""A server of canned answers, and commands on a pseudo-terminal."""

import fcntl
import json
import os
import select
import signal
import struct
import sys
import termios
import time
from http.server import BaseHTTPRequestHandler

from places import ROOT
from pseudo_terminals import fork

ESCAPES = "a\x1b]0;T\x07b\x9bc 數據🩷 ©"
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda my"


class Canned(BaseHTTPRequestHandler):
    """A server whose models say what the test needs; `broken` goes away in the middle of its answer, `slow` in that
    of a load."""

    def do_HEAD(self):
        self.answer({})

    def do_GET(self):
        model = {
            "name": f"m{ESCAPES}:latest",
            "digest": "0" * 64,
            "size": 5,
            "modified_at": "0001-01-01T00:00:00Z",
            "size_vram": 0,
            "expires_at": "0001-01-01T00:00:00Z",
        }
        self.answer({"models": [model]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model = body["model"]
        if model == "error":
            self.answer({"error": f"no {ESCAPES}"}, 500)
        elif self.path == "/api/show":
            self.answer(
                {
                    "system": ESCAPES,
                    "license": ESCAPES,
                    "template": ESCAPES,
                    "parameters": f"stop {ESCAPES}",
                    "modelfile": ESCAPES,
                    "details": {"family": ESCAPES, "quantization_level": ESCAPES},
                    "capabilities": ["completion", ESCAPES],
                }
            )
        elif model == "broken":
            self.answer({"response": "half", "done": False}, length=1000)
        elif model == "slow" and body["load_progress"]:
            status = {"model": "slow", "status": "loading model", "total": 2 * 10**9, "completed": 10**9}
            self.answer(status, length=1000, seconds=0.5)
        else:
            self.answer({"response": WORDS if model == "words" else ESCAPES, "done": True})

    def answer(self, body, status=200, length=None, seconds=0.0):
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
            self.wfile.flush()
            time.sleep(seconds)
        self.close_connection = True

    def log_message(self, *_):
        pass


def on_terminal(environment, *arguments, columns=200) -> str:
    """-> all that a command writes to a terminal of so many columns."""
    pid, file = fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execvpe(sys.executable, [sys.executable, "-m", "vkbackend", *arguments], environment)
    fcntl.ioctl(file, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    written, deadline = b"", time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if select.select([file], [], [], 0.2)[0]:
                piece = os.read(file, 65536)
                if not piece:
                    break
                written += piece
        else:
            os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"the command did not end: {written!r}")
    except OSError:
        pass  # how Linux tells the end
    finally:
        os.close(file)
        os.waitpid(pid, 0)
    return written.decode().replace("\r\n", "\n")
