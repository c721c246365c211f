"""What goes wrong between us and a registry."""

from vkbackend.errors import VkbackendError


class RegistryError(VkbackendError):
    """The registry cannot be reached, refuses, or gives what it should not: trying again at once would not help."""


class Cancelled(VkbackendError):
    """Whoever asked has gone."""


class Passing(Exception):
    """A failure that may be gone at the next try: a connection cut, a stall, 429 or 5xx. after_seconds: when the
    registry wants to be asked again, None where it did not say.
    """

    def __init__(self, message: str, after_seconds: float | None = None):
        super().__init__(message)
        self.after_seconds = after_seconds


class Refused(RegistryError):
    """An answer with an error status: the status, and what the registry says to it."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
