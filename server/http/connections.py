"""Client connections: limits on a request's head, on the time it takes to arrive, and on the number of connections.

In: a listening socket and an aiohttp runner. Out: `Site`, which accepts, and a `Connection` for each client. Heads are
limited as in Go's net/http; the times are settings. Near the limit of open files, a new client replaces the one that
has been silent the longest.
"""

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from vkbackend import settings

from ..errors import ApiError
from . import paths, responses

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 1 << 20  # request line and headers together
MAX_HEADERS = 16384  # lines of a head: each costs the event loop time
HEAD_END = b"\r\n\r\n"
# aiohttp's parser refuses methods that it does not know. Go reads any token, and the router answers 405 or 404.
METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
STAND_IN = b"PATCH"  # a method that the parser treats like an unknown one: its request may have a body
LINGER_SECONDS = 0.5  # for a client that is still sending to read why it is refused, as in Go
LOOK_SECONDS = 1.0  # between two checks for stalled requests
RETRY_SECONDS = 0.5  # between two attempts to accept when there is no room
WARNING_SECONDS = 60.0  # between two warnings about that
UNLIMITED_CONNECTIONS = 1 << 20  # where the system sets no limit of open files
RESERVED_FILES = 64  # open files that connections leave to models, blobs and registries


class StalledBody(ApiError):
    """A body that stopped arriving."""

    def __init__(self, seconds: float):
        super().__init__(408, f"the body of the request stopped arriving for {seconds:g} s; send it again")


class Connection(RequestHandler):
    """One client. Uses `_messages`, `_request_count`, `_handle_request` and `_lingering_time` of aiohttp's protocol."""

    def __init__(self, site: "Site", **options: Any):
        assert site.server is not None, "connections are accepted by a runner that is set up"
        # A field may be as long as a whole head: the limit is on all of them together.
        super().__init__(
            site.server,
            loop=site.loop,
            auto_decompress=False,
            max_line_size=2 * MAX_HEAD_BYTES,
            max_field_size=2 * MAX_HEAD_BYTES,
            max_headers=MAX_HEADERS,
            **options,
        )
        self._site = site
        self._body = EMPTY_PAYLOAD  # of the latest request
        self._head_bytes = 0  # of the next request, received so far
        self._before = b""  # the last bytes of those
        self._head_lines = 0
        self._begun = b""  # the beginning of a method whose rest has not arrived
        self._unknown_method = ""  # of the next request, if the parser does not know it
        self._framing_bytes = 0  # chunk sizes and trailers of the body, since the last byte of its contents
        self._is_answering = self._is_refused = False
        self._silent_since = site.loop.time()  # when the last bytes came, or the last answer was sent
        self._unread_bytes = 0  # of the answer
        self._unread_since = self._silent_since  # when that number last changed
        # When the next request began. None between requests: a client may keep its connection open for later.
        self._head_since: float | None = self._silent_since

    @property
    def silent_since(self) -> float | None:
        """When a request stopped arriving, by the event loop's clock; None while a complete one is being answered."""
        return None if self._is_answering and self._body.is_eof() else self._silent_since

    def data_received(self, data: bytes) -> None:
        """Count the bytes and lines of a request's head before aiohttp parses them. Refuses a head over the limits."""
        if self._is_refused:
            return
        now = self._silent_since = self._site.loop.time()
        if data and self._body.is_eof():  # aiohttp calls without data to parse what it has buffered
            self._head_since = self._head_since or now
            if not self._head_bytes:
                data = self._known_method(self._begun + data)
                if not data:
                    return
            end = (self._before + data).find(HEAD_END)
            num_bytes = len(data) if end < 0 else end + len(HEAD_END) - len(self._before)
            self._head_bytes += num_bytes
            self._head_lines += data.count(b"\n", 0, num_bytes)
            self._before = data[1 - len(HEAD_END) :]
            if self._head_bytes > MAX_HEAD_BYTES or self._head_lines > MAX_HEADERS:
                self._refuse()
                return
        known = self._request_count
        body_bytes = self._body.total_bytes
        super().data_received(data)
        if self._request_count != known:
            self._body = self._messages[-1][1]
            if self._unknown_method:
                self._restore_method(known - self._request_count)
            self._head_bytes = 0
            self._head_lines = 0
            self._before = b""
            self._head_since = None
            self._framing_bytes = 0
        elif not self._body.is_eof():
            self._framing_bytes = 0 if self._body.total_bytes != body_bytes else self._framing_bytes + len(data)
            if self._framing_bytes > MAX_HEAD_BYTES:
                self.force_close()

    def _known_method(self, data: bytes) -> bytes:
        """The beginning of a request, with a method that the parser knows; empty until the method is there."""
        method = METHOD.match(data)
        if method is not None and method.end() == len(data):
            self._begun = data
            return b""
        self._begun = b""
        if method is None or data[method.end()] != ord(" ") or method[0].decode() in hdrs.METH_ALL:
            return data
        self._unknown_method = method[0].decode()
        return STAND_IN + data[method.end() :]

    def _restore_method(self, index: int) -> None:
        """Give the message at `index` the method that its client sent."""
        message, payload = self._messages[index]
        if isinstance(message, RawRequestMessage):
            self._messages[index] = (message._replace(method=self._unknown_method), payload)
        self._unknown_method = ""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._site.connections.discard(self)
        super().connection_lost(exc)

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        self._is_answering = True
        try:
            return await super()._handle_request(
                request, start_time, _not_found if paths.is_too_deep(request.raw_path) else request_handler
            )
        finally:
            self._is_answering = False
            self._silent_since = self._site.loop.time()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer bytes that are not HTTP as Go does, without a traceback."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        log.debug("not HTTP from %s: %s", request.remote, exc.message)
        answer = web.Response(status=400, text="400 Bad Request")
        answer.force_close()
        return answer

    def _refuse(self) -> None:
        """Answer 431, unless an answer is being sent, and continue to read for a moment.

        Closing a connection while its client sends resets it, and the client would never read why.
        """
        self._is_refused = True
        transport = self.transport
        if transport is None:
            return
        if self._is_answering:
            self.force_close()
            return
        text = b"431 Request Header Fields Too Large"
        transport.write(
            b"HTTP/1.1 " + text + b"\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n" + text
        )
        transport.write_eof()
        self._site.loop.call_later(LINGER_SECONDS, self.force_close)

    def end_if_stalled(self, now: float, head_seconds: float, body_seconds: float) -> None:
        """Close the connection, or end its request with 408, if a head or a body has stopped arriving."""
        if self.transport is None:
            return
        if not self.transport.is_reading():  # the server is slow, not the client
            self._silent_since = now
        elif self._is_answering and not self._body.is_eof():
            if now - self._silent_since > body_seconds:
                self._lingering_time = 0.0
                self._body.set_exception(StalledBody(body_seconds))
        elif not self._is_answering and self._head_since is not None and now - self._head_since > head_seconds:
            self.force_close()

    def end_if_unread(self, now: float, seconds: float) -> None:
        """Close the connection if its client has read nothing of its answer for that long."""
        if self.transport is None:
            return
        unread = self.transport.get_write_buffer_size()
        if unread == 0 or unread != self._unread_bytes:
            self._unread_bytes = unread
            self._unread_since = now
        elif now - self._unread_since > seconds:
            log.info("closing a connection that has not been read for %g s", seconds)
            self.transport.abort()

    def drop(self) -> None:
        """Close the connection at once."""
        self._site.connections.discard(self)
        if self.transport is not None:
            self.transport.abort()


async def _not_found(request: web.BaseRequest) -> web.Response:
    return responses.plain(404, "404 page not found")


class Site(web.BaseSite):
    """Accepts connections on `listening` from `start` to `stop`. options: for aiohttp's RequestHandler."""

    def __init__(self, runner: web.AppRunner, listening: socket.socket, **options: Any):
        super().__init__(runner)
        self.server = runner.server
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self._socket = listening
        self._options = options
        self._most = most_connections()
        self._warned_at = -WARNING_SECONDS

    @property
    def name(self) -> str:
        """The address that aiohttp shows for the site."""
        return f"http://{self._socket.getsockname()}"

    async def start(self) -> None:
        """Accept connections, and close those that are silent or slow for too long."""
        await super().start()
        self._socket.setblocking(False)
        self._tasks = [asyncio.create_task(self._accept()), asyncio.create_task(self._look())]

    async def stop(self) -> None:
        """Accept no more connections and close the listening socket."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()
        await super().stop()

    def _connection(self) -> Connection:
        connection = Connection(self, **self._options)
        self.connections.add(connection)
        return connection

    async def _accept(self) -> None:
        while True:
            if not self._make_room():
                await self._wait(f"all {self._most} connections are in use")
                continue
            try:
                accepted, _ = await self.loop.sock_accept(self._socket)
                await self.loop.connect_accepted_socket(self._connection, accepted)
            except ConnectionError:  # the client has left already
                continue
            except OSError as error:
                await self._wait(error.strerror or str(error))
            except Exception:
                log.exception("cannot accept a client")

    async def _wait(self, reason: str) -> None:
        if self.loop.time() - self._warned_at >= WARNING_SECONDS:
            self._warned_at = self.loop.time()
            log.warning(
                "cannot accept new clients (%s); raise `ulimit -n`, or LimitNOFILE of a systemd service", reason
            )
        await asyncio.sleep(RETRY_SECONDS)

    def _make_room(self) -> bool:
        """Whether one more connection can be opened, if necessary by dropping the one that was silent the longest."""
        if len(self.connections) < self._most:
            return True
        silent = [
            (since, connection)
            for connection in self.connections
            if connection.transport is not None and (since := connection.silent_since) is not None
        ]
        if not silent:
            return False
        min(silent, key=lambda pair: pair[0])[1].drop()
        return True

    async def _look(self) -> None:
        head_seconds = settings.get("VKBACKEND_HEADER_SECONDS")
        body_seconds = settings.get("VKBACKEND_BODY_SECONDS")
        unread_seconds = settings.get("VKBACKEND_UNREAD_SECONDS")
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for connection in list(self.connections):
                connection.end_if_stalled(self.loop.time(), head_seconds, body_seconds)
                connection.end_if_unread(self.loop.time(), unread_seconds)


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one, as programs in Go do when they start. Windows has none."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.warning("cannot raise the limit of %d open files: %s", soft, error)


def most_connections() -> int:
    """How many connections the limit of open files allows, less what the rest of the server needs."""
    try:
        import resource
    except ImportError:  # Windows
        return UNLIMITED_CONNECTIONS
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        limit = UNLIMITED_CONNECTIONS
    return max(limit - RESERVED_FILES, limit // 2)
