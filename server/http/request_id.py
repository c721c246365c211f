"""Each request's id: the one its client gave (X-Request-Id) or a new one, in the answer and in every line of the log.

`current` holds it while the request is answered, in threads that were started for it, too.
"""

import re
import secrets
from contextvars import ContextVar

HEADER = "X-Request-Id"
current: ContextVar[str] = ContextVar("request_id", default="")
_FIT = re.compile(r"[A-Za-z0-9_.:/+=-]{1,128}")  # nothing that could forge a line of the log


def of_header(text: str) -> str:
    """The client's id where it is fit for a log; else a new one."""
    return text if _FIT.fullmatch(text) else secrets.token_hex(8)
