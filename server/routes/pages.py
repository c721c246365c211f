"""Routes of the web pages (`web/pages.py`), each with its files."""

from aiohttp import web

from .. import pools
from ..errors import ApiError
from ..web.pages import PAGES, POLICY, Page


def _routes(page: Page) -> list[web.RouteDef]:
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

    return [web.get(page.path, show), web.get(page.path + "/{file}", show)]


ROUTES = [route for page in PAGES for route in _routes(page)]
