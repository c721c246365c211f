"""Routes that exchange models with a registry: requests are checked; the exchange itself is not supported yet."""

from aiohttp import web

from .. import names
from ..answers import read
from ..errors import ApiError
from ..messages import PullRequest, PushRequest


async def pull(request: web.Request) -> web.Response:
    ask = await read(request, PullRequest)
    name = names.parse(ask.model or ask.name)
    if not name.is_valid:
        raise ApiError(400, "invalid model name")
    raise ApiError(501, f"pulling {name.shortest} is not supported yet; upload a GGUF file to /api/blobs and name it in /api/create")


async def push(request: web.Request) -> web.Response:
    ask = await read(request, PushRequest)
    if not (ask.model or ask.name):
        raise ApiError(400, "model is required")
    raise ApiError(501, f"pushing {ask.model or ask.name} is not supported yet")


ROUTES = [web.post("/api/pull", pull), web.post("/api/push", push)]
