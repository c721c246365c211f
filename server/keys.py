"""Where the application keeps what its routes share: typed keys, imported by routes without importing the application."""

from aiohttp import web

from .access import AccessRules
from .service.running import RUNNING  # noqa: F401  for callers
from .store import Store

STORE = web.AppKey("store", Store)
LOADED_MODELS = web.AppKey("loaded_models", object)  # loaded_models.LoadedModels
ACCESS = web.AppKey("access", AccessRules)
