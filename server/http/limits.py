"""Limits on what a request may hold; docs/limits.md lists them all. Two are settings: VKBACKEND_MAX_BODY_BYTES
(blobs are streamed and know none) and VKBACKEND_MAX_IMAGES.
"""

from aiohttp import web

from vkbackend import settings

from ..errors import ApiError

MAX_MESSAGES = 10_000
MAX_TOOLS = 1_024
MAX_STOPS = 256  # they are looked for behind every token
MAX_STOP_CHARS = 1_024
MAX_FORMAT_CHARS = 256 << 10  # a second or so to compile
MAX_TEMPLATE_CHARS = 100_000


def max_body_bytes() -> int:
    return settings.get("VKBACKEND_MAX_BODY_BYTES")


async def read_body(request: web.Request) -> bytearray:
    """Raises ApiError 413 for a body of more than VKBACKEND_MAX_BODY_BYTES, as soon as that is known."""
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


def check(ask):
    """`ask`: a ChatRequest or GenerateRequest. Raises ApiError 400 that names what is too large, its size and the
    limit.
    """
    messages, stops = getattr(ask, "messages", None) or [], (ask.options or {}).get("stop") or []
    holders = messages or ([ask] if hasattr(ask, "images") else [])
    stops = stops if isinstance(stops, list) else []
    for what, size, most in (
        ("messages", len(messages), MAX_MESSAGES),
        ("tools", len(getattr(ask, "tools", None) or ()), MAX_TOOLS),
        ("stop strings", len(stops), MAX_STOPS),
        (
            "characters in one stop string",
            max((len(stop) for stop in stops if isinstance(stop, str)), default=0),
            MAX_STOP_CHARS,
        ),
        ("characters of format", len(ask.format or ""), MAX_FORMAT_CHARS),
        ("characters of template", len(getattr(ask, "template", "")), MAX_TEMPLATE_CHARS),
    ):
        if size > most:
            raise ApiError(400, f"the request holds {size} {what}, and this server takes {most}; send fewer")
    count, most = sum(len(holder.images or ()) for holder in holders), settings.get("VKBACKEND_MAX_IMAGES")
    if count > most:
        raise ApiError(
            400,
            f"the request holds {count} images, and this server takes {most}; send fewer, or raise "
            f"VKBACKEND_MAX_IMAGES",
        )
