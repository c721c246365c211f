"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

A request rejected by this layer is an `invalid_request_error` (400) or a `not_found_error` (404); one rejected by the
native API is an `api_error` with any status, as in Ollama 0.12.11.
"""

import logging

from vkbackend.errors import RequestError, VkbackendError

from ..errors import ApiError
from ..go import encode
from ..library.model import InvalidName, ModelNotFound
from ..wire.content_types import JSON, PLAIN_JSON
from ..wire.openai import Error, ErrorResponse

log = logging.getLogger(__name__)

TYPES = {400: "invalid_request_error", 404: "not_found_error"}
SOMETHING_WRONG = "something went wrong, please see the ollama server logs for details"


class InvalidRequest(Exception):
    """A request rejected by this layer; its text is for the client."""


def own_error(status: int, message: str) -> ErrorResponse:
    """Body of an error of this layer."""
    return ErrorResponse(Error(message, TYPES.get(status, "api_error")))


def native_error(message: str) -> ErrorResponse:
    """Body of an error of the native API."""
    return ErrorResponse(Error(message or SOMETHING_WRONG, "api_error"))


def status_and_text(error: Exception) -> tuple[int, str]:
    """Status and text for an error raised below this layer. An unexpected one is logged with its traceback."""
    if isinstance(error, ApiError):
        return error.status, error.message
    if isinstance(error, ModelNotFound):
        return 404, str(error)
    if isinstance(error, (RequestError, InvalidName)):
        return 400, str(error)
    if isinstance(error, VkbackendError):
        log.error("%s", error)
        return 500, str(error)
    log.error("a request failed", exc_info=error)
    return 500, f"{type(error).__name__}: {error}"


def answer(error: Exception) -> tuple[int, str, str]:
    """(status, body, content type) of the answer to a request that failed before anything was sent."""
    if isinstance(error, InvalidRequest):
        return 400, encode.dumps(own_error(400, str(error))), JSON
    status, text = status_and_text(error)
    return status, encode.dumps(native_error(text)) + "\n", PLAIN_JSON
