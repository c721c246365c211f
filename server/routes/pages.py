"""Web pages (`web/pages.py`) and their files."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from .. import pools
from ..errors import ApiError
from ..web.pages import POLICY, Page


def handler(page: Page) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The function that answers with the page or one of its files."""

    async def show(request: web.Request) -> web.Response:
        name = request.match_info.get("file", "index.html")
        found = await pools.run("store", page.read, name)
        if found is None:
            raise ApiError(404, f"{page.path} has no file {name}")
        contents, media_type = found
        return web.Response(
            body=contents,
            headers={
                "Content-Type": media_type,
                "Content-Security-Policy": POLICY,
                "X-Content-Type-Options": "nosniff",
            },
        )

    return show
