"""The inner middleware: redirects, access rules, 404 and 405, and exceptions turned into statuses.

In: a request and its handler. Out: the handler's answer, or one like Ollama's, bodies included. Handlers raise; here
an exception becomes a status and `{"error": ...}`.
"""

import html
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from vkbackend.errors import RequestError, VkbackendError

from ..errors import ApiError
from ..library.model import InvalidName, ModelNotFound, StoreBusy
from ..wire.content_types import JSON, PLAIN_JSON
from . import access, paths, responses
from .keys import ACCESS
from .responses import error_answer

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Redirect, check the origin, check the host, then call the handler. The order matters for the answer to a
    forbidden request for a wrong path.
    """
    clean = paths.cleaned(request.raw_path)
    if clean is not None:
        return _redirect(request, clean)
    if not access.is_host_header(_host(request)):
        return responses.plain(400, "400 Bad Request: malformed Host header")
    missing = request.match_info.http_exception
    if missing is not None and missing.status == 404:
        target = paths.without_slash(request.raw_path)
        if target is not None and await _is_route_without_slash(request):
            return _redirect(request, target)
    headers = {}
    if isinstance(missing, web.HTTPMethodNotAllowed):
        # HEAD first, as Ollama registers it.
        headers["Allow"] = ", ".join(sorted(missing.allowed_methods, key=lambda method: (method != "HEAD", method)))
    refusal = _refusal(request, headers)
    if refusal is not None:
        return refusal
    if missing is not None:
        text = "405 method not allowed" if missing.status == 405 else "404 page not found"
        return responses.plain(missing.status, text, headers)
    return await _answer(request, handler)


def _host(request: web.Request) -> str:
    """The host that the request was sent to. An absolute target overrides the Host header, as in Go."""
    return paths.authority(request.raw_path) or request.headers.get("Host", "")


def _cors(request: web.Request) -> dict[str, str] | None:
    """Headers of an answer to a page of another origin, empty for other callers; None if the origin is not allowed."""
    rules = request.app[ACCESS]
    origin = request.headers.get("Origin", "")
    if not origin or access.is_same_origin(origin, _host(request)):
        return {}
    if rules.allows_all_origins:
        return {"Access-Control-Allow-Origin": "*"}
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"} if rules.allows_origin(origin) else None


def _refusal(request: web.Request, headers: dict[str, str]) -> web.Response | None:
    """The answer to a request that does not reach its handler: a foreign origin or host, or OPTIONS."""
    rules = request.app[ACCESS]
    host = _host(request)
    cors = _cors(request)
    is_options = request.method == "OPTIONS"
    if cors is None:
        return responses.empty(403, headers)
    if is_options and cors:
        preflight = {
            "Access-Control-Allow-Methods": access.ALLOWED_METHODS,
            "Access-Control-Allow-Headers": access.ALLOWED_HEADERS,
            "Access-Control-Max-Age": str(access.PREFLIGHT_SECONDS),
        }
        if "Vary" in cors:
            preflight["Vary"] = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        return responses.empty(204, headers | preflight)
    if not rules.allows_host(host):
        return responses.empty(403, headers)
    if is_options and rules.checks_hosts and rules.names_this_machine(host):
        return responses.empty(204, headers)
    return None


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The handler's answer, or that of the exception that it raises."""
    try:
        return await handler(request)
    except ApiError as error:
        return error_answer(error.status, error.message, PLAIN_JSON if error.is_of_stream else JSON)
    except ModelNotFound as error:
        return error_answer(404, str(error))
    except StoreBusy as error:
        return error_answer(503, str(error))
    except (RequestError, InvalidName) as error:
        return error_answer(400, str(error))
    except VkbackendError as error:
        log.error("%s %s: %s", request.method, request.path, error)
        return error_answer(500, str(error))
    except ConnectionError:
        raise  # the client is gone; aiohttp closes the connection
    except Exception as error:
        log.exception("%s %s failed", request.method, request.path)
        return error_answer(500, f"{type(error).__name__}: {error}")


async def _is_route_without_slash(request: web.Request) -> bool:
    path = request.path
    if not path.endswith("/") or path == "/":
        return False
    match = await request.app.router.resolve(request.clone(rel_url=request.rel_url.with_path(path[:-1])))
    return match.http_exception is None


def _redirect(request: web.Request, target: str) -> web.Response:
    if request.method not in ("GET", "HEAD"):
        return responses.empty(307, {"Location": target})
    return web.Response(
        status=301,
        body=f'<a href="{html.escape(target)}">Moved Permanently</a>.\n\n'.encode(),
        headers={"Location": target, "Content-Type": "text/html; charset=utf-8"},
    )


async def set_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler of `on_response_prepare`: headers as Ollama sends them, CORS included, also on streams."""
    response.headers.pop("Server", None)
    if isinstance(response, responses.EmptyResponse):
        response.headers.pop("Content-Type", None)
    for name, text in (_cors(request) or {}).items():
        response.headers.setdefault(name, text)
