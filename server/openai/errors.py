"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

A request that this layer refuses is an `invalid_request_error` (400) or a `not_found_error` (404); what the native
API refuses is an `api_error`, whatever its status, as in Ollama 0.12.11.
"""

import logging

from vkbackend.errors import RequestError, VkbackendError

from ..errors import ApiError
from ..go import encode
from ..http.responses import JSON, PLAIN_JSON
from ..library.model import InvalidName, ModelNotFound
from ..wire.openai import Error, ErrorResponse

log = logging.getLogger(__name__)

TYPES = {400: "invalid_request_error", 404: "not_found_error"}
SOMETHING_WRONG = "something went wrong, please see the ollama server logs for details"


class InvalidRequest(Exception):
    """A request that this layer refuses; its text is for the client."""


def own_error(status: int, message: str) -> ErrorResponse:
    """The body of an error of this layer."""
    return ErrorResponse(Error(message, TYPES.get(status, "api_error")))


def native_error(message: str) -> ErrorResponse:
    """The body of an error of the native API."""
    return ErrorResponse(Error(status_error_text("", message), "api_error"))


def status_error_text(status_line: str, message: str) -> str:
    """An error's text where a status line, a message or neither is known."""
    return ": ".join(part for part in (status_line, message) if part) or SOMETHING_WRONG


def status_and_text(error: Exception) -> tuple[int, str]:
    """What a client is told of an error below this layer. One that nobody foresaw is logged with its trace."""
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
