"""Routes for operators and tools: /healthz, /metrics, /api/devices, /openapi.json."""

import functools
import json

from aiohttp import web

from vkbackend.device.selection import survey

from .. import openapi, pools
from ..http import metrics
from ..http.responses import json_answer
from ..version import version
from .context import LOADED_MODELS


async def health(request: web.Request) -> web.Response:
    """Answers at once, also while a model is loaded; a server that ends refuses this request as any other, with
    status 503.
    """
    loaded = getattr(request.app[LOADED_MODELS], "loaded", ())
    return json_answer({"status": "ok", "models": [model.stored.name for model in loaded]})


async def prometheus(request: web.Request) -> web.Response:
    return web.Response(body=metrics.text(request.app[LOADED_MODELS]), headers={"Content-Type": metrics.CONTENT_TYPE})


async def devices(request: web.Request) -> web.Response:
    """Every Vulkan device, which ones models run on, and why: as `vkbackend devices --json`."""
    return json_answer(await pools.run("models", lambda: survey().as_dict()))


@functools.cache
def _document() -> dict:
    return openapi.build(version())


async def document(request: web.Request) -> web.Response:
    return web.Response(body=json.dumps(_document()).encode(), headers={"Content-Type": "application/json"})


ROUTES = [
    web.get("/healthz", health),
    web.get("/metrics", prometheus),
    web.get("/api/devices", devices),
    web.get("/openapi.json", document),
]
