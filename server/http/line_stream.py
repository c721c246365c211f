"""The NDJSON stream that answers a request. It begins, status and headers included, with its first line."""

from aiohttp import web

from ..go import encode

NDJSON = "application/x-ndjson"


class LineStream:
    """Nothing is sent before the first `write`, so an error until then can still be an answer with a status."""

    def __init__(self, request: web.Request):
        self._request = request
        self._response: web.StreamResponse | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the status and the headers were sent."""
        return self._response is not None

    @property
    def is_behind(self) -> bool:
        """Whether earlier lines still wait for the client to read them."""
        transport = self._request.transport
        return transport is not None and transport.get_write_buffer_size() > 0

    async def write(self, line: object) -> None:
        """Send a dataclass or dict as one line. Raises UnsupportedValue, before anything is sent, for a number that
        JSON cannot hold.
        """
        await self.write_text(encode.dumps(line))

    async def write_text(self, text: str) -> None:
        """Send a line that is JSON already."""
        response = await self._begun()
        await response.write(text.encode() + b"\n")

    async def end(self) -> web.StreamResponse:
        """End the answer, which is begun if nothing was written. Returns it."""
        response = await self._begun()
        await response.write_eof()
        return response

    async def _begun(self) -> web.StreamResponse:
        if self._response is None:
            response = web.StreamResponse(headers={"Content-Type": NDJSON})
            await response.prepare(self._request)
            self._response = response
        return self._response
