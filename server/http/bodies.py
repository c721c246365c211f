"""Bodies of requests in memory: how large each may be, and how large all that arrive or are parsed may be together.

    async with bodies.read(request) as body:
        ...                                  # parse it

Bytes count once they are here, so a client that announces much and sends little takes little room. Where there is no
room, others wait until the body that has been arriving for the longest is there, or ends with status 503 after
GRACE_SECONDS. The first FREE_BYTES of each do not count: a small request waits for nobody.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from vkbackend import settings

from ..errors import ApiError

FREE_BYTES = 64 << 10
GRACE_SECONDS = 10.0  # in which a body keeps its room, however slowly it arrives
WAIT_SECONDS = 60.0  # for room
LOOK_SECONDS = 0.5  # between two looks for a body whose grace is over


class NoRoom(ApiError):
    """Status 503: other bodies take all the room, and this one has waited for too long."""

    def __init__(self) -> None:
        super().__init__(
            503,
            f"the server is receiving requests of more than {max_total_bytes()} bytes together; send the request again "
            "later, or raise VKBACKEND_MAX_BODIES_BYTES",
        )


class Body:
    """A body in memory. patience: ends with the last piece; is_complete: it is being parsed; is_waiting: for room."""

    def __init__(self, patience: asyncio.Timeout, began: float):
        self.patience = patience
        self.began = began
        self.num_bytes = 0
        self.is_complete = self.is_waiting = self.is_ended = False

    @property
    def counted(self) -> int:
        """Bytes of the room that it takes."""
        return max(self.num_bytes - FREE_BYTES, 0)

    def end(self) -> None:
        """Raise TimeoutError where the body is read."""
        self.is_ended = True
        self.patience.reschedule(asyncio.get_running_loop().time())


class Room:
    """The bodies in memory; belongs to one event loop at a time."""

    def __init__(self) -> None:
        self.bodies: list[Body] = []  # in the order in which they began
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def num_bytes(self) -> int:
        """Bytes that all bodies take."""
        return sum(body.counted for body in self.bodies)

    async def add(self, body: Body, num_bytes: int) -> None:
        """`num_bytes` more of `body`, once there is room. Raises TimeoutError."""
        loop = asyncio.get_running_loop()
        most = max_total_bytes()
        async with asyncio.timeout(WAIT_SECONDS):
            body.num_bytes += num_bytes
            while body.counted and self.num_bytes > most:
                body.num_bytes -= num_bytes
                body.is_waiting = True
                self._end_oldest(body, loop.time())
                await self._change()
                body.is_waiting = False
                body.num_bytes += num_bytes

    def _end_oldest(self, waiting: Body, now: float) -> None:
        """End the body that began first, if its grace is over; at most one at a time.

        One that waits for room itself ends only if nothing else can give way: none is slow, none is being parsed.
        """
        others = [body for body in self.bodies if body.counted and body is not waiting]
        slow = [body for body in others if not body.is_complete and not body.is_waiting]
        if not slow and not any(body.is_complete for body in others):
            slow = others
        if slow and not any(body.is_ended for body in others) and now - slow[0].began > GRACE_SECONDS:
            slow[0].end()

    async def _change(self) -> None:
        changed = asyncio.get_running_loop().create_future()
        self._waiting.add(changed)
        try:
            await asyncio.wait([changed], timeout=LOOK_SECONDS)
        finally:
            self._waiting.discard(changed)

    def remove(self, body: Body) -> None:
        """Give back a body's room and wake the requests that wait for some."""
        self.bodies.remove(body)
        for changed in self._waiting:
            if not changed.done():
                changed.set_result(None)


room = Room()


def max_body_bytes() -> int:
    """The most bytes that the body of a request may have; blobs are not limited."""
    return settings.get("VKBACKEND_MAX_BODY_BYTES")


def max_total_bytes() -> int:
    """Of all bodies in memory: at least one of the largest fits."""
    return max(settings.get("VKBACKEND_MAX_BODIES_BYTES"), max_body_bytes())


@asynccontextmanager
async def read(request: web.Request) -> AsyncIterator[bytearray]:
    """The body of a request, which counts until the block ends. Raises ApiError 413 for a body of more than
    VKBACKEND_MAX_BODY_BYTES, as soon as that is known, and NoRoom.
    """
    most, data = max_body_bytes(), bytearray()
    too_large = ApiError(
        413, f"the request's body is larger than {most} bytes; send less, or raise VKBACKEND_MAX_BODY_BYTES"
    )
    if (request.content_length or 0) > most:
        raise too_large
    body = Body(asyncio.timeout(None), asyncio.get_running_loop().time())
    room.bodies.append(body)
    try:
        async with body.patience:
            async for piece in request.content.iter_any():
                if len(data) + len(piece) > most:
                    raise too_large
                await room.add(body, len(piece))
                data += piece
        body.is_complete = True
        yield data
    except TimeoutError:
        if body.is_complete:
            raise
        raise NoRoom() from None
    finally:
        room.remove(body)
