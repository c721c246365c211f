"""Limits on what a request may hold, as settings: VKBACKEND_MAX_BODY_BYTES (blobs are streamed and know none), VKBACKEND_MAX_IMAGES."""

from aiohttp import web
from vkbackend import settings

from ..errors import ApiError


def max_body_bytes() -> int:
    return settings.get("VKBACKEND_MAX_BODY_BYTES")


async def read_body(request: web.Request) -> bytearray:
    """Raises ApiError 413 for a body of more than VKBACKEND_MAX_BODY_BYTES, as soon as that is known."""
    most, body = max_body_bytes(), bytearray()
    too_large = ApiError(413, f"the request's body is larger than {most} bytes; send less, or raise VKBACKEND_MAX_BODY_BYTES")
    if (request.content_length or 0) > most:
        raise too_large
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > most:
            raise too_large
    return body


def check_images(ask):
    """`ask`: a ChatRequest or GenerateRequest. Raises ApiError 400 for more images than VKBACKEND_MAX_IMAGES."""
    holders = getattr(ask, "messages", None) or ([ask] if hasattr(ask, "images") else [])
    count, most = sum(len(holder.images or ()) for holder in holders), settings.get("VKBACKEND_MAX_IMAGES")
    if count > most:
        raise ApiError(400, f"the request holds {count} images, and this server takes {most}; send fewer, or raise VKBACKEND_MAX_IMAGES")
