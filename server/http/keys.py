"""Keys of what the application keeps for the modules of `http/`; `routes/app_state.py` has those of the routes."""

from collections.abc import Callable

from aiohttp import web

from ..errors import ApiError
from .access import AccessRules
from .running import RUNNING

__all__ = ["ACCESS", "ERROR_ANSWER", "RUNNING"]

ACCESS = web.AppKey("access", AccessRules)
# (path, error) -> the answer, in the shape that clients of the route know
ERROR_ANSWER: web.AppKey[Callable[[str, ApiError], web.Response]] = web.AppKey("error answer")
