"""The web application: the table of routes between two middlewares, `http/observe.py` and `http/guard.py`.

In: a store and the loaded models. Out: an aiohttp application that answers as Ollama does.
"""

import functools
import json
import logging
import threading

from aiohttp import web

from vkbackend import settings

from . import openapi, pools
from .errors import ApiError
from .http import access, bodies, guard, observe
from .http.keys import ACCESS, ERROR_ANSWER, RUNNING
from .http.responses import error_answer, text_answer
from .http.running import RunningRequests
from .library.model import StoreError
from .library.store import Store
from .loading.loaded_models import LoadedModels
from .openai import errors as openai_errors
from .routes.app_state import DOCUMENT, LOADED_MODELS, STORE
from .routes.table import OPERATIONS, ROUTES
from .version import version

log = logging.getLogger(__name__)


def build_app(
    store: Store, loaded_models: LoadedModels, listen_address: str | None = None, origins: list[str] | None = None
) -> web.Application:
    """listen_address: Host headers are checked if it is a loopback address. origins: None means OLLAMA_ORIGINS and the
    defaults.
    """
    app = web.Application(middlewares=[observe.observed, guard.guard], client_max_size=bodies.max_body_bytes())
    app[RUNNING] = RunningRequests()
    app[STORE] = store
    app[LOADED_MODELS] = loaded_models
    app[ERROR_ANSWER] = _error_answer
    app[ACCESS] = access.AccessRules(listen_address, access.allowed_origins() if origins is None else origins)
    app[DOCUMENT] = functools.cache(lambda: json.dumps(openapi.build(version(), OPERATIONS)).encode())
    app.router.add_routes([route.definition for route in ROUTES])
    app.on_response_prepare.extend([guard.set_headers, observe.mark])
    app.cleanup_ctx.extend([observe.watch_loop, observe.collect_garbage])
    app.on_startup.extend([_rename_old_blobs, _prune])
    app.on_shutdown.append(_close)
    return app


async def _close(app: web.Application) -> None:
    await app[LOADED_MODELS].close()


async def _rename_old_blobs(app: web.Application) -> None:
    """Rename the blobs of old releases before the first request, which would not find its model otherwise."""
    try:
        await pools.run_to_end("store", app[STORE].rename_old_blobs)
    except StoreError as error:
        log.warning("cannot rename the blobs of an old Ollama, so their models are not found: %s", error)


async def _prune(app: web.Application) -> None:
    """Remove leftovers of a crash from the store, in the background: another program may hold the store's lock."""

    def prune() -> None:
        try:
            app[STORE].prune()
        except StoreError as error:
            log.warning("cannot remove unused files from the store: %s", error)

    if not settings.get("OLLAMA_NOPRUNE"):
        threading.Thread(target=prune, name="prune", daemon=True).start()


def _error_answer(path: str, error: ApiError) -> web.Response:
    """An error in the shape that clients of the route know."""
    if path.startswith("/v1/"):
        return text_answer(*openai_errors.answer(error))
    return error_answer(error.status, error.message)
