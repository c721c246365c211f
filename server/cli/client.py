"""HTTP client of the commands.

In: a base URL. Out: parsed answers, one at a time if they are streamed. Uses http.client, which lets commands start in
0.1 s.
"""

import http.client
import json
import socket
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from vkbackend.errors import VkbackendError

from ..http.address import from_environment

CONNECT_SECONDS = 5
PIECE_BYTES = 1 << 20


class NoServer(VkbackendError):
    """No server answers at the address."""


class ServerError(VkbackendError):
    """The server answered with an error: its message and the HTTP status (0 inside a stream)."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


class Client:
    """A client of one server. Every method raises NoServer and ServerError.

    url: scheme, host, port and optionally a path before `/api`.
    """

    def __init__(self, url: str):
        self.url = url
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port
            self._secure = parts.scheme == "https"
            self._path = parts.path.rstrip("/")
        except ValueError as error:
            raise NoServer(
                f"invalid server address {url} ({error}); set OLLAMA_HOST to an address such as 127.0.0.1:11434"
            ) from None

    @classmethod
    def from_environment(cls) -> "Client":
        """Create a client of the server at OLLAMA_HOST."""
        return cls(from_environment().for_clients.url)

    def answers(self) -> bool:
        """Whether a server answers. A rejection counts as an answer: the next call reports it."""
        try:
            self._send("HEAD", "/", None, seconds=CONNECT_SECONDS).close()
        except NoServer:
            return False
        except ServerError:
            pass
        return True

    def call(self, method: str, path: str, body: dict | None = None) -> dict:
        """Send one request. Returns the JSON object of the answer, empty for an empty answer."""
        with self._send(method, path, body) as answer:
            try:
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise ServerError(
                    f"connection to {self.url}{path} lost ({_reason(error)}); see the server's log"
                ) from None
        try:
            found = json.loads(text) if text.strip() else {}
            if not isinstance(found, dict):
                raise ValueError
            return found
        except ValueError:
            raise ServerError(
                f"{self.url}{path} did not return JSON; check that it is a vkbackend or Ollama server"
            ) from None

    def stream(self, path: str, body: dict) -> Generator[dict, None, None]:
        """Yield the objects of a streamed answer as they arrive.

        Closing the generator closes the connection, which cancels the request. The last object has `done` or the status
        `success`; an answer that ends without it is incomplete and raises ServerError.
        """
        with self._send("POST", path, body) as answer:
            ended = False
            try:
                for line in answer:
                    if line.strip():
                        piece = json.loads(line)
                        if not isinstance(piece, dict):
                            raise ValueError(f"{line[:40]!r} is not a JSON object")
                        if "error" in piece:
                            raise ServerError(str(piece["error"]))
                        ended = bool(piece.get("done")) or piece.get("status") == "success"
                        yield piece
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise ServerError(f"connection to {self.url}{path} lost ({error}); see the server's log") from None
            if not ended:
                raise ServerError(f"incomplete answer from {self.url}{path}; see the server's log")

    def has_blob(self, digest: str) -> bool:
        """Whether the server has a blob."""
        try:
            self._send("HEAD", f"/api/blobs/{digest}", None).close()
            return True
        except ServerError as error:
            if error.status == 404:
                return False
            raise

    def upload_blob(self, digest: str, path: Path, progress: Callable[[int], None] = lambda sent: None) -> None:
        """Send a file and call `progress` with the number of bytes sent so far."""

        def pieces() -> Iterator[bytes]:
            sent = 0
            with open(path, "rb") as file:
                while piece := file.read(PIECE_BYTES):
                    yield piece
                    sent += len(piece)
                    progress(sent)

        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)}
        self._send("POST", f"/api/blobs/{digest}", None, pieces(), headers).close()

    def _send(
        self,
        method: str,
        path: str,
        body: dict | None,
        data: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        seconds: float | None = None,
    ) -> "_Answer":
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=CONNECT_SECONDS)
        headers = {"User-Agent": "vkbackend"} | (headers or {})
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            connection.connect()
        except (OSError, ValueError) as error:  # ValueError: the host is not a valid name
            raise NoServer(
                f"could not connect to a server at {self.url} ({_reason(error)}); start one with `vkbackend serve`, "
                "or set OLLAMA_HOST to its address"
            ) from None
        try:
            connection.sock.settimeout(seconds)  # None: loading a model may take long
            connection.request(method, self._path + path, data, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ServerError(f"no answer from {self.url}{path} ({_reason(error)}); see the server's log") from None
        if response.status >= 400:
            text = response.read().decode("utf-8", "replace")
            connection.close()
            raise ServerError(
                _error_text(text) or f"{self.url}{path} returned status {response.status}", response.status
            )
        return _Answer(connection, response)


class _Answer:
    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse):
        self._connection = connection
        self._response = response

    def read(self) -> bytes:
        return self._response.read()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._response)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "_Answer":
        return self

    def __exit__(self, *_: object):
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
