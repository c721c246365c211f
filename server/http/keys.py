"""Where the application keeps what its routes share: typed keys, imported by routes without importing the
application.
"""

from collections.abc import Callable

from aiohttp import web

from ..errors import ApiError
from ..library.store import Store
from .access import AccessRules
from .running import RUNNING

STORE = web.AppKey("store", Store)
LOADED_MODELS = web.AppKey("loaded_models", object)  # loaded_models.LoadedModels
ACCESS = web.AppKey("access", AccessRules)
# (request, ApiError) -> its answer, in the shape that clients of the route know
ERROR_ANSWER: web.AppKey[Callable[[web.Request, ApiError], web.Response]] = web.AppKey("error answer")
