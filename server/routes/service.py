"""What operators and tools ask for: /healthz, /metrics, /api/devices, /openapi.json and its page /docs."""

import functools
import json

from aiohttp import web

from vkbackend.device.selection import survey

from .. import openapi, pools
from ..errors import ApiError
from ..http import metrics
from ..http.keys import LOADED_MODELS
from ..http.responses import json_answer
from ..version import version


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


async def page(request: web.Request) -> web.Response:
    return _of_page(openapi.PAGE.encode(), "text/html; charset=utf-8")


async def page_file(request: web.Request) -> web.Response:
    found = await pools.run("store", openapi.file, request.match_info["file"])
    if found is None:
        raise ApiError(404, "the page has no such file")
    return _of_page(*found)


def _of_page(contents: bytes, media_type: str) -> web.Response:
    return web.Response(
        body=contents,
        headers={
            "Content-Type": media_type,
            "Content-Security-Policy": openapi.POLICY,
            "X-Content-Type-Options": "nosniff",
        },
    )


ROUTES = [
    web.get("/healthz", health),
    web.get("/metrics", prometheus),
    web.get("/api/devices", devices),
    web.get("/openapi.json", document),
    web.get("/docs", page),
    web.get("/docs/{file}", page_file),
]
