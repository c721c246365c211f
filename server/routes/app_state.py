"""The application's keys for routes, and the context that routes pass on to `generation/`."""

import time
from collections.abc import Callable

from aiohttp import web

from ..generation.request_context import RequestContext
from ..http.line_stream import LineStream
from ..http.streams import has_left
from ..library.store import Store
from ..loading.loaded_models import LoadedModels

STORE = web.AppKey("store", Store)
DOCUMENT: web.AppKey[Callable[[], bytes]] = web.AppKey("document")  # the OpenAPI document as JSON
LOADED_MODELS = web.AppKey("loaded_models", LoadedModels)


def context_of(request: web.Request, lines: LineStream | None = None) -> RequestContext:
    """The context of a request. Call it first in a handler: the durations in the answer count from here. lines: see
    RequestContext.
    """
    return RequestContext(
        request.app[STORE], request.app[LOADED_MODELS], lambda: has_left(request), time.monotonic(), lines
    )
