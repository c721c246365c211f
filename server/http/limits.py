"""Limits on the contents of a request; docs/limits.md lists them all. Two are settings: VKBACKEND_MAX_BODY_BYTES
(blobs are streamed and have no limit) and VKBACKEND_MAX_IMAGES.
"""

from collections.abc import Iterator

from aiohttp import web

from vkbackend import settings

from ..errors import ApiError
from ..wire.native import CreateRequest

MAX_MESSAGES = 10_000
MAX_TOOLS = 1_024
MAX_STOPS = 256  # they are searched for after every token
MAX_STOP_CHARS = 1_024
MAX_FORMAT_CHARS = 256 << 10  # a second or so to compile
MAX_TEMPLATE_CHARS = 100_000
MAX_INPUTS = 10_000  # texts to embed
MAX_BIASES = 10_000  # of logit_bias: some milliseconds for each token
MAX_FILES = 10_000  # of a model to create
MAX_LICENSES = 100


def max_body_bytes() -> int:
    return settings.get("VKBACKEND_MAX_BODY_BYTES")


async def read_body(request: web.Request) -> bytearray:
    """Read the body. Raises ApiError 413 as soon as it is known to be larger than VKBACKEND_MAX_BODY_BYTES."""
    most, body = max_body_bytes(), bytearray()
    too_large = ApiError(
        413, f"the request's body is larger than {most} bytes; send less, or raise VKBACKEND_MAX_BODY_BYTES"
    )
    if (request.content_length or 0) > most:
        raise too_large
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > most:
            raise too_large
    return body


def check(ask: object) -> None:
    """Check any request of `wire/`. Raises ApiError 400 that names what is too large, its size and the limit.

    For a large request this is called in a thread, right after its body was read.
    """
    for what, size, most in _sizes(ask):
        if size > most:
            raise ApiError(400, f"the request holds {size} {what}, and this server takes {most}; send fewer")
    holders = [*_items(ask, "messages"), ask]
    count = sum(len(getattr(holder, "images", None) or ()) for holder in holders)
    most = settings.get("VKBACKEND_MAX_IMAGES")
    if count > most:
        raise ApiError(
            400,
            f"the request holds {count} images, and this server takes {most}; send fewer, or raise "
            f"VKBACKEND_MAX_IMAGES",
        )


def _sizes(ask: object) -> Iterator[tuple[str, int, int]]:
    """(name, size in the request, limit) of each limited thing."""
    options = getattr(ask, "options", None) or {}
    stops = options.get("stop") or getattr(ask, "stop", None)
    stops = [stop for stop in stops if isinstance(stop, str)] if isinstance(stops, list) else []
    biases = options.get("logit_bias") or getattr(ask, "logit_bias", None)
    yield "messages", len(_items(ask, "messages")), MAX_MESSAGES
    yield "tools", len(_items(ask, "tools")), MAX_TOOLS
    yield "inputs", len(_items(ask, "input")), MAX_INPUTS
    yield "stop strings", len(stops), MAX_STOPS
    yield "characters in one stop string", max(map(len, stops), default=0), MAX_STOP_CHARS
    yield "biases", len(biases) if isinstance(biases, dict) else 0, MAX_BIASES
    yield "characters of format", len(getattr(ask, "format", None) or ""), MAX_FORMAT_CHARS
    if not isinstance(ask, CreateRequest):  # a model's template may be larger
        yield "characters of template", len(getattr(ask, "template", "")), MAX_TEMPLATE_CHARS
        return
    yield "files", len(ask.files or ()) + len(ask.adapters or ()), MAX_FILES
    yield "licenses", len(_items(ask, "license")), MAX_LICENSES


def _items(ask: object, name: str) -> list:
    """A field's list; empty if the request has no such field or it is not a list."""
    value = getattr(ask, name, None)
    return value if isinstance(value, list) else []
