"""The web application: routes table, one middleware that observes (service/observe.py), one for access rules and
errors, nothing else.

In: a store and the loaded models. Out: an aiohttp application that answers as Ollama does, the bodies of 404 and 405
included. Handlers raise; here an exception becomes a status and `{"error": ...}`.
"""

import functools
import html
import json
import logging
import threading

from aiohttp import web

from vkbackend import settings
from vkbackend.errors import RequestError, VkbackendError

from . import openapi, pools
from .errors import ApiError
from .http import access, bodies, observe, paths, responses
from .http.keys import ACCESS, ERROR_ANSWER, RUNNING
from .http.responses import error_answer, text_answer
from .http.running import RunningRequests
from .library.model import InvalidName, ModelNotFound, StoreError
from .library.staging import StoreBusy
from .openai import errors as openai_errors
from .routes.context import DOCUMENT, LOADED_MODELS, STORE
from .routes.table import OPERATIONS, ROUTES
from .version import version

log = logging.getLogger(__name__)


def build_app(
    store, loaded_models, listen_address: str | None = None, origins: list[str] | None = None
) -> web.Application:
    """`listen_address` turns the check of Host headers on where it is a loopback address; `origins` None takes
    OLLAMA_ORIGINS and the defaults.
    """
    app = web.Application(middlewares=[observe.observed, guard], client_max_size=bodies.max_body_bytes())
    app[RUNNING] = RunningRequests()
    app[STORE], app[LOADED_MODELS] = store, loaded_models
    app[ERROR_ANSWER] = _error_answer
    app[ACCESS] = access.AccessRules(listen_address, access.allowed_origins() if origins is None else origins)
    app[DOCUMENT] = functools.cache(lambda: json.dumps(openapi.build(version(), OPERATIONS)).encode())
    app.router.add_routes([route.definition for route in ROUTES])
    app.on_response_prepare.extend([_as_go_answers, observe.mark])
    app.cleanup_ctx.extend([observe.watch_loop, observe.collect_garbage])
    app.on_startup.extend([_rename_old_blobs, _prune])
    if loaded_models is not None:
        app.on_shutdown.append(lambda app: loaded_models.close())
    return app


async def _rename_old_blobs(app: web.Application):
    """Before the first request, which would not find its model otherwise."""
    if app[STORE] is not None:
        try:
            await pools.run_to_end("store", app[STORE].rename_old_blobs)
        except StoreError as error:
            log.warning("blobs that an old Ollama wrote keep their names, and their models are not found: %s", error)


def _error_answer(request: web.Request, error: ApiError) -> web.Response:
    """An error in the shape that clients of the route know."""
    if request.path.startswith("/v1/"):
        return text_answer(*openai_errors.answer(error))
    return error_answer(error.status, error.message)


async def _prune(app: web.Application):
    """Clear away what a crash left in the store. Nobody waits for it: another program may hold the store's lock."""

    def prune():
        try:
            app[STORE].prune()
        except StoreError as error:
            log.warning("the store was not cleared of what is unused: %s", error)

    if app[STORE] is not None and not settings.get("OLLAMA_NOPRUNE"):
        threading.Thread(target=prune, name="prune", daemon=True).start()


@web.middleware
async def guard(request: web.Request, handler) -> web.StreamResponse:
    """Redirects first, then origins, then hosts, then the handler; the order decides what a forbidden request to a
    wrong path gets.
    """
    clean = paths.cleaned(request.raw_path)
    if clean is not None:
        return _redirect(request, clean)
    if not access.is_host_header(_host(request)):
        return responses.plain(400, "400 Bad Request: malformed Host header")
    missing = request.match_info.http_exception
    if missing is not None and missing.status == 404 and await _is_route_without_slash(request):
        return _redirect(request, paths.without_slash(request.raw_path))
    headers = {}
    if isinstance(missing, web.HTTPMethodNotAllowed):
        # HEAD first, as the original registers it.
        headers["Allow"] = ", ".join(sorted(missing.allowed_methods, key=lambda method: (method != "HEAD", method)))
    refusal = _refusal(request, headers)
    if refusal is not None:
        return refusal
    if missing is not None:
        text = "405 method not allowed" if missing.status == 405 else "404 page not found"
        return responses.plain(missing.status, text, headers)
    return await _answer(request, handler)


def _host(request) -> str:
    """Where the request was sent to: an absolute target says it in place of the header, as in Go."""
    return paths.authority(request.raw_path) or request.headers.get("Host", "")


def _cors(request) -> dict | None:
    """Headers of an answer to a page of another origin: none for other callers, None where the origin is not
    allowed.
    """
    rules, origin = request.app[ACCESS], request.headers.get("Origin", "")
    if not origin or access.is_same_origin(origin, _host(request)):
        return {}
    if rules.allows_all_origins:
        return {"Access-Control-Allow-Origin": "*"}
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"} if rules.allows_origin(origin) else None


def _refusal(request, headers) -> web.Response | None:
    """The answer where a request goes no further: a foreign origin or host, or one that OPTIONS already settles."""
    rules, host, cors = request.app[ACCESS], _host(request), _cors(request)
    is_options = request.method == "OPTIONS"
    if cors is None:
        return responses.empty(403, headers)
    if is_options and cors:
        vary = (
            {"Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"} if "Vary" in cors else {}
        )
        return responses.empty(
            204,
            headers
            | vary
            | {
                "Access-Control-Allow-Methods": access.ALLOWED_METHODS,
                "Access-Control-Allow-Headers": access.ALLOWED_HEADERS,
                "Access-Control-Max-Age": str(access.PREFLIGHT_SECONDS),
            },
        )
    if not rules.allows_host(host):
        return responses.empty(403, headers)
    if is_options and rules.checks_hosts and rules.names_this_machine(host):
        return responses.empty(204, headers)
    return None


async def _answer(request, handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return error_answer(error.status, error.message, responses.PLAIN_JSON if error.is_of_stream else responses.JSON)
    except ModelNotFound as error:
        return error_answer(404, str(error))
    except StoreBusy as error:
        return error_answer(503, str(error))
    except (RequestError, InvalidName) as error:
        return error_answer(400, str(error))
    except VkbackendError as error:
        log.error("%s %s: %s", request.method, request.path, error)
        return error_answer(500, str(error))
    except web.HTTPException as error:
        return error_answer(error.status, error.reason)
    except ConnectionError:
        raise  # the client is gone; aiohttp closes the connection
    except Exception as error:
        log.exception("%s %s failed", request.method, request.path)
        return error_answer(500, f"{type(error).__name__}: {error}")


async def _is_route_without_slash(request) -> bool:
    path = request.path
    if not path.endswith("/") or path == "/":
        return False
    match = await request.app.router.resolve(request.clone(rel_url=request.rel_url.with_path(path[:-1])))
    return match.http_exception is None


def _redirect(request, target: str) -> web.Response:
    if request.method not in ("GET", "HEAD"):
        return responses.empty(307, {"Location": target})
    return web.Response(
        status=301,
        body=f'<a href="{html.escape(target)}">Moved Permanently</a>.\n\n'.encode(),
        headers={"Location": target, "Content-Type": "text/html; charset=utf-8"},
    )


async def _as_go_answers(request, response):
    """Headers as the original sends them, also on streams, whose handlers know nothing of CORS."""
    response.headers.pop("Server", None)
    if isinstance(response, responses.EmptyResponse):
        response.headers.pop("Content-Type", None)
    for name, text in (_cors(request) or {}).items():
        response.headers.setdefault(name, text)
