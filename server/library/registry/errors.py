"""Errors of pulls and pushes."""

from vkbackend.errors import VkbackendError


class RegistryError(VkbackendError):
    """The registry cannot be reached, refuses a request, or sends invalid data: an immediate retry would not help."""


class Cancelled(VkbackendError):
    """The client no longer wants the result."""


class TemporaryFailure(Exception):
    """A failure worth a retry: a lost connection, a stall, status 429 or 5xx.

    after_seconds: how long the registry asks to wait, or None.
    """

    def __init__(self, message: str, after_seconds: float | None = None):
        super().__init__(message)
        self.after_seconds = after_seconds


class Refused(RegistryError):
    """A response with an error status that is not temporary."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
