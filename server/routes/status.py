"""Routes for operators and tools: /healthz, /metrics, /api/devices, /openapi.json."""

from aiohttp import web

from .. import metrics, pools
from ..http.responses import json_answer
from ..wire.content_types import PLAIN_JSON
from .app_state import DOCUMENT, LOADED_MODELS


async def health(request: web.Request) -> web.Response:
    """Health check. Answers at once, even while a model loads. A server that is shutting down answers 503, as on every
    route.
    """
    return json_answer({"status": "ok", "models": [model.name for model in request.app[LOADED_MODELS].loaded]})


async def prometheus(request: web.Request) -> web.Response:
    """GET /metrics."""
    return web.Response(body=metrics.text(request.app[LOADED_MODELS]), headers={"Content-Type": metrics.CONTENT_TYPE})


async def devices(request: web.Request) -> web.Response:
    """Every Vulkan device, which ones run models, and why; the same as `vkbackend devices --json`."""
    from vkbackend.device.selection import survey  # loads Vulkan, which most commands do not need

    return json_answer(await pools.run("models", lambda: survey().as_dict()))


async def document(request: web.Request) -> web.Response:
    """GET /openapi.json."""
    return web.Response(body=request.app[DOCUMENT](), headers={"Content-Type": PLAIN_JSON})
