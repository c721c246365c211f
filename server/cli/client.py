"""Speaks to a server over HTTP, for the commands.

In: a base URL. Out: parsed answers, one by one where they are streamed. Built on http.client: the commands start in
a tenth of a second.
"""

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from vkbackend.errors import VkbackendError

from ..http.address import from_environment

CONNECT_SECONDS = 5
PIECE_BYTES = 1 << 20


class NoServer(VkbackendError):
    """Nothing answers at the address."""


class ServerError(VkbackendError):
    """The server answered with an error: its words, and the HTTP status (0 inside of a stream)."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


class Client:
    """url: scheme, host, port and perhaps a path in front of `/api`. Raises NoServer and ServerError from every
    method.
    """

    def __init__(self, url: str):
        self.url = url
        try:
            parts = urlsplit(url)
            self._secure, self._host, self._port, self._path = (
                parts.scheme == "https",
                parts.hostname,
                parts.port,
                parts.path.rstrip("/"),
            )
        except ValueError as error:
            raise NoServer(
                f"{url} is no address of a server ({error}); set OLLAMA_HOST to one, such as 127.0.0.1:11434"
            ) from None

    @classmethod
    def from_environment(cls) -> "Client":
        return cls(from_environment().for_clients.url)

    def answers(self) -> bool:
        """Whether a server is there, be it one that refuses us: its own words come with the next call."""
        try:
            self._send("HEAD", "/", None, seconds=CONNECT_SECONDS).close()
        except NoServer:
            return False
        except ServerError:
            pass
        return True

    def call(self, method: str, path: str, body: dict | None = None) -> dict:
        """One request, one JSON object (an empty one for an empty answer)."""
        with self._send(method, path, body) as answer:
            try:
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise ServerError(
                    f"the answer of {self.url}{path} broke off ({_reason(error)}); see the server's log"
                ) from None
        try:
            found = json.loads(text) if text.strip() else {}
            if not isinstance(found, dict):
                raise ValueError
            return found
        except ValueError:
            raise ServerError(
                f"{self.url}{path} did not answer with JSON; is it a vkbackend or Ollama server?"
            ) from None

    def stream(self, path: str, body: dict) -> Iterator[dict]:
        """The objects of a streamed answer as they arrive. Closing the iterator closes the connection, which ends
        the request.

        The last one says `done` or the status `success`; an answer that ends without it has broken off.
        """
        with self._send("POST", path, body) as answer:
            ended = False
            try:
                for line in answer:
                    if line.strip():
                        piece = json.loads(line)
                        if not isinstance(piece, dict):
                            raise ValueError(f"{line[:40]!r} is no JSON object")
                        if "error" in piece:
                            raise ServerError(str(piece["error"]))
                        ended = bool(piece.get("done")) or piece.get("status") == "success"
                        yield piece
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise ServerError(f"the answer of {self.url}{path} broke off ({error}); see the server's log") from None
            if not ended:
                raise ServerError(f"the answer of {self.url}{path} broke off; see the server's log")

    def has_blob(self, digest: str) -> bool:
        try:
            self._send("HEAD", f"/api/blobs/{digest}", None).close()
            return True
        except ServerError as error:
            if error.status == 404:
                return False
            raise

    def upload_blob(self, digest: str, path: Path, progress: Callable[[int], None] = lambda sent: None) -> None:
        """Send a file; `progress` gets the number of bytes sent so far."""

        def pieces():
            sent = 0
            with open(path, "rb") as file:
                while piece := file.read(PIECE_BYTES):
                    yield piece
                    sent += len(piece)
                    progress(sent)

        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)}
        self._send("POST", f"/api/blobs/{digest}", None, pieces(), headers).close()

    def _send(self, method, path, body, data=None, headers=None, seconds=None) -> "_Answer":
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=CONNECT_SECONDS)
        headers = {"User-Agent": "vkbackend"} | (headers or {})
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            connection.connect()
        except (OSError, ValueError) as error:  # a ValueError: a host that is no name
            raise NoServer(
                f"could not connect to a server at {self.url} ({_reason(error)}); start one with `vkbackend serve`, "
                "or set OLLAMA_HOST to where it listens"
            ) from None
        try:
            connection.sock.settimeout(seconds)  # None: a model may take its time to load
            connection.request(method, self._path + path, data, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ServerError(f"{self.url}{path} did not answer ({_reason(error)}); see the server's log") from None
        if response.status >= 400:
            text = response.read().decode("utf-8", "replace")
            connection.close()
            raise ServerError(
                _error_text(text) or f"{self.url}{path} answered with status {response.status}", response.status
            )
        return _Answer(connection, response)


class _Answer:
    def __init__(self, connection, response):
        self._connection, self._response = connection, response

    def read(self) -> bytes:
        return self._response.read()

    def __iter__(self):
        return iter(self._response)

    def close(self):
        self._connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _error_text(text: str) -> str:
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return text.strip()


def _reason(error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return f"no answer within {CONNECT_SECONDS} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
