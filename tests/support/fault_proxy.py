"""A registry that misbehaves: a proxy in front of a real one, which does to each answer what a test wants.

with FaultProxy(registry.host) as proxy:
    proxy.fault = lambda request: Cut(1000) if request.number == 1 else None
"""

import asyncio
import ssl
import threading
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from live_server import free_port


@dataclass
class Cut:
    """Close the connection after so many bytes of the body."""

    after: int


@dataclass
class Stall:
    """Send so many bytes of the body, then nothing, for as long as the client waits."""

    after: int


@dataclass
class Slow:
    """So many bytes a second."""

    rate: int


@dataclass
class Flip:
    """Another byte at this place of the body."""

    at: int = 0


@dataclass
class WholeOnly:
    """Knows no ranges: gives everything whatever is asked for, and breaks off after so many bytes where `cut` says
    so.
    """

    cut: int | None = None


@dataclass
class Answer:
    status: int
    headers: dict = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Seen:
    """A request; number: of its kind (method, and blobs, uploads or manifests), from 1 on."""

    method: str
    path: str
    headers: dict
    number: int
    sent: int = 0  # bytes of the answer's body

    @property
    def kind(self) -> str:
        return kind_of(self.method, self.path)


def kind_of(method: str, path: str) -> str:
    return f"{method} {next((word for word in ('uploads', 'blobs', 'manifests') if f'/{word}/' in path), 'other')}"


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


class FaultProxy:
    """`fault(seen)` -> what to do to that answer, None for nothing. `seen`: every request so far. certificate:
    speaks TLS.
    """

    def __init__(self, upstream: str, certificate: ssl.SSLContext | None = None):
        self._upstream, self._certificate, self.port = upstream, certificate, free_port()
        self.host, self.seen, self.fault = f"127.0.0.1:{self.port}", [], lambda seen: None

    def of_kind(self, kind: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.kind == kind]

    def forget(self) -> None:
        self.seen, self.fault = [], lambda seen: None

    def __enter__(self):
        self._loop, started = asyncio.new_event_loop(), threading.Event()

        async def start():
            self._session = aiohttp.ClientSession(auto_decompress=False)
            app = web.Application(client_max_size=1 << 30)
            app.router.add_route("*", "/{path:.*}", self._handle)
            self._runner = web.AppRunner(app, shutdown_timeout=0.1)
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._certificate).start()
            started.set()

        self._loop.create_task(start())
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_):
        async def stop():
            await self._runner.cleanup()
            await self._session.close()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        kind = kind_of(request.method, request.path)
        seen = Seen(request.method, request.path_qs, dict(request.headers), len(self.of_kind(kind)) + 1)
        self.seen.append(seen)
        fault = self.fault(seen)
        if isinstance(fault, Answer):
            await request.read()
            return web.Response(status=fault.status, headers=fault.headers, body=fault.body)
        if isinstance(fault, Cut) and request.method == "PATCH":
            await self._forward_beginning(request, fault.after)
            return request.transport.abort() or web.Response()
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("transfer-encoding", "connection", "authorization")
        }
        if isinstance(fault, WholeOnly):
            headers.pop("Range", None)
        body = await request.read()
        async with self._session.request(
            request.method,
            f"http://{self._upstream}{request.path_qs}",
            headers=headers,
            data=body or None,
            allow_redirects=False,
        ) as answer:
            passed = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() not in ("transfer-encoding", "connection")
            }
            response = web.StreamResponse(status=answer.status, headers=passed)
            await response.prepare(request)
            try:
                await self._send(request, response, answer, fault, seen)
            except ConnectionError:  # the client has left
                pass
        return response

    async def _send(self, request, response, answer, fault, seen) -> None:
        cut = fault.after if isinstance(fault, (Cut, Stall)) else fault.cut if isinstance(fault, WholeOnly) else None
        async for piece in answer.content.iter_chunked(
            4096 if not isinstance(fault, Slow) else max(fault.rate // 20, 1)
        ):
            if isinstance(fault, Flip) and seen.sent <= fault.at < seen.sent + len(piece):
                place = fault.at - seen.sent
                piece = piece[:place] + bytes([piece[place] ^ 1]) + piece[place + 1 :]
            if cut is not None:
                piece = piece[: cut - seen.sent]
            await response.write(piece)
            seen.sent += len(piece)
            if isinstance(fault, Slow):
                await asyncio.sleep(1 / 20)
            if seen.sent == cut:
                while isinstance(fault, Stall) and not _has_left(request):
                    await asyncio.sleep(0.02)
                if not _has_left(request):
                    request.transport.close()
                return
        await response.write_eof()

    async def _forward_beginning(self, request, num_bytes: int) -> None:
        """The registry gets as much of an upload, and keeps it; the client hears nothing of that."""
        body = (await request.read())[:num_bytes]
        start = int(request.headers["Content-Range"].partition("-")[0])
        headers = {
            "Host": request.headers["Host"],
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{start}-{start + len(body) - 1}",
        }
        async with self._session.patch(
            f"http://{self._upstream}{request.path_qs}", headers=headers, data=body
        ) as answer:
            await answer.read()
