"""Request ids: the client's (X-Request-Id) or a new one, in the answer and in every line of the log.

`current` holds the id while a request is answered, also in threads that work for it.
"""

import re
import secrets
from contextvars import ContextVar

HEADER = "X-Request-Id"
current: ContextVar[str] = ContextVar("request_id", default="")
_SAFE = re.compile(r"[A-Za-z0-9_.:/+=-]{1,128}")  # no character that could forge a line of the log


def of_header(text: str) -> str:
    """The client's id if it is safe to log, else a new one."""
    return text if _SAFE.fullmatch(text) else secrets.token_hex(8)
