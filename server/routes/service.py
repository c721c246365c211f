"""What operators and tools ask for: /healthz, /metrics, /api/devices."""

import asyncio

from aiohttp import web
from vkbackend.device.selection import survey

from ..answers import json_answer
from ..keys import LOADED_MODELS
from ..service import metrics
from ..service.device_list import as_dict


async def health(request: web.Request) -> web.Response:
    """Answers at once, also while a model is loaded; a server that ends refuses this request as any other, with status 503."""
    loaded = getattr(request.app[LOADED_MODELS], "loaded", ())
    return json_answer({"status": "ok", "models": [model.stored.name for model in loaded]})


async def prometheus(request: web.Request) -> web.Response:
    return web.Response(body=metrics.text(request.app[LOADED_MODELS]), headers={"Content-Type": metrics.CONTENT_TYPE})


async def devices(request: web.Request) -> web.Response:
    """Every Vulkan device, which ones models run on, and why: as `vkbackend devices --json`."""
    return json_answer(await asyncio.to_thread(lambda: as_dict(survey())))


ROUTES = [
    web.get("/healthz", health),
    web.get("/metrics", prometheus),
    web.get("/api/devices", devices),
]
