"""The application on a listening socket: start and stop it, or run it inside another command.

In: an address and a store. Out: a `Service` that answers from `start` to `stop`.
"""

import asyncio
import errno
import faulthandler
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from vkbackend import settings
from vkbackend.errors import VkbackendError

from . import garbage
from .app import build_app
from .http.address import Address
from .http.connections import Site
from .http.keys import RUNNING
from .http.log import AccessLogger, formatter
from .library.store import Store
from .loading.engine_loader import EngineLoader
from .loading.loaded_models import LoadedModels

log = logging.getLogger(__name__)

BACKLOG = 1024  # clients that may wait to be accepted
STOP_SECONDS = 2.0  # for models to unload when the process ends


class AddressInUse(VkbackendError):
    """Another process listens at the address."""


def listen(address: Address) -> socket.socket:
    """A bound socket: for both families if the host stands for every address, for IPv4 if a name has both.

    Raises AddressInUse, VkbackendError.
    """
    try:
        if address.is_wildcard:
            return _listen_everywhere(address.port_number)
        found = socket.getaddrinfo(address.bare_host, address.port_number, type=socket.SOCK_STREAM)
        family, _, _, _, place = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        return socket.create_server(place, family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"listen tcp {address.host_port}: bind: address already in use; is a server running there already? "
                "Stop it, or set OLLAMA_HOST to another address, such as 127.0.0.1:11435"
            ) from None
        raise VkbackendError(
            f"listen tcp {address.host_port}: {error.strerror or error}; set OLLAMA_HOST to an address of this machine"
        ) from None


def _listen_everywhere(port: int) -> socket.socket:
    """One socket for both families, as in Go. Without IPv6, a machine may create such a socket and fail to bind it."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
    return socket.create_server(("", port), backlog=BACKLOG)


class Service:
    """Belongs to the event loop that calls `start`."""

    def __init__(self, listening: socket.socket, store: Store, access_log: logging.Logger | None = None):
        self.store = store
        self._socket = listening
        self._access_log = access_log

    async def start(self) -> None:
        """Build the application and accept connections."""
        garbage.start()
        self._app = build_app(self.store, LoadedModels(self.store, EngineLoader()), self._socket.getsockname()[0])
        self._runner = web.AppRunner(self._app, shutdown_timeout=0)
        await self._runner.setup()
        await Site(self._runner, self._socket, access_log=self._access_log, access_log_class=AccessLogger).start()

    async def end_requests(self, seconds: float) -> None:
        """Refuse new requests; give running ones `seconds` to finish."""
        for site in list(self._runner.sites):
            await site.stop()
        await self._app[RUNNING].end(seconds)

    async def stop(self) -> None:
        """Refuse new requests, cancel running ones and unload every model."""
        await self.end_requests(0)
        await self._runner.cleanup()
        garbage.stop()


def start_log(level: int = logging.INFO) -> None:
    """Log to stderr from `level` on, or as OLLAMA_DEBUG says; also the stacks of threads if the process crashes."""
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)  # SIGBUS: a mapped model file became shorter (docs/limits.md)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(settings.get("VKBACKEND_LOG_FORMAT")))
    # force: kp configures the root logger when it is imported.
    logging.basicConfig(
        level=settings.log_level() if settings.get("OLLAMA_DEBUG") else level, handlers=[handler], force=True
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # A client that disconnects is normal, not an error with a traceback.
    logging.getLogger("aiohttp.server").addFilter(
        lambda record: not (record.exc_info and isinstance(record.exc_info[1], ConnectionError))
    )


@contextmanager
def own_server() -> Iterator[str]:
    """Context manager giving the URL of a server on a free loopback port, in a thread of this process."""
    start_log(logging.ERROR)  # the output belongs to the command
    listening = listen(Address("http", "127.0.0.1", "0"))
    loop = asyncio.new_event_loop()
    service = Service(listening, Store(settings.models_folder()))
    thread = threading.Thread(target=loop.run_forever, name="server", daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(service.start(), loop).result()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(service.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def serve_until(service: Service, stopped: asyncio.Event, ready: Callable[[], object]) -> None:
    """Start, call `ready()`, wait for `stopped`, give running requests VKBACKEND_DRAIN_SECONDS to finish, stop.

    If a load or a long step does not end within STOP_SECONDS, the process exits without it, with status 0.
    """
    await service.start()
    ready()
    await stopped.wait()
    log.info("stopping")
    await service.end_requests(settings.get("VKBACKEND_DRAIN_SECONDS"))
    try:
        await asyncio.wait_for(service.stop(), STOP_SECONDS)
    except TimeoutError:
        log.warning("a model did not unload within %.0f s; exiting without it", STOP_SECONDS)
        logging.shutdown()
        os._exit(0)
