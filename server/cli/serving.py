"""The application on a listening socket: started, stopped, and run inside of another command.

In: an address, a store. Out: a `Service` that answers from `start` to `stop`.
"""

import asyncio
import errno
import logging
import os
import socket
import threading
from contextlib import contextmanager
from typing import Iterator

from aiohttp import web
from vkbackend import settings
from vkbackend.device.selection import Survey, survey
from vkbackend.errors import VkbackendError

from ..address import Address
from ..app import build_app
from ..loaded_models import LoadedModels
from ..loading import load_engine
from ..store import Store

log = logging.getLogger(__name__)

REQUEST_SECONDS = 1.0  # what requests that still run get to end
STOP_SECONDS = 2.0
ACCESS_LOG = '%a "%r" %s %Tfs'


class AddressInUse(VkbackendError):
    """Another process listens there."""


def listen(address: Address) -> socket.socket:
    """A bound socket: every interface for an empty host, IPv4 first for a name that has both. Raises AddressInUse, VkbackendError."""
    try:
        if address.host == "":
            if socket.has_dualstack_ipv6():
                return socket.create_server(("", address.port_number), family=socket.AF_INET6, dualstack_ipv6=True)
            return socket.create_server(("0.0.0.0", address.port_number))
        found = socket.getaddrinfo(address.host, address.port_number, type=socket.SOCK_STREAM)
        family, _, _, _, place = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        return socket.create_server(place[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"listen tcp {address.host_port}: bind: address already in use; is a server running there already? "
                               "Stop it, or set OLLAMA_HOST to another address, such as 127.0.0.1:11435") from None
        raise VkbackendError(f"listen tcp {address.host_port}: {error.strerror or error}; set OLLAMA_HOST to an address of this machine") from None


class Service:
    """Belongs to the event loop that calls `start`."""

    def __init__(self, listening: socket.socket, store: Store, access_log: logging.Logger | None = None):
        self.store, self._socket, self._access_log = store, listening, access_log

    async def start(self) -> None:
        app = build_app(self.store, LoadedModels(self.store, load_engine), self._socket.getsockname()[0])
        self._runner = web.AppRunner(app, access_log=self._access_log, access_log_format=ACCESS_LOG, shutdown_timeout=REQUEST_SECONDS)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def stop(self) -> None:
        """No new requests, every model unloaded, an end for the requests that still run."""
        await self._runner.cleanup()


def start_log(level: int = logging.INFO) -> None:
    """From `level` on to stderr, or what OLLAMA_DEBUG says."""
    # force: kp configures the root logger when it is imported.
    logging.basicConfig(level=settings.log_level() if settings.get("OLLAMA_DEBUG") else level, format="%(asctime)s %(levelname)s %(message)s", force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # A client that went away is everyday life, not an error with a traceback.
    logging.getLogger("aiohttp.server").addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], ConnectionError)))


@contextmanager
def own_server() -> Iterator[str]:
    """A server on a free loopback port, in a thread of this process -> its URL. It is gone when the block ends."""
    start_log(logging.ERROR)  # the output belongs to the command
    listening = listen(Address("http", "127.0.0.1", "0"))
    loop, service = asyncio.new_event_loop(), Service(listening, Store(settings.models_folder()))
    thread = threading.Thread(target=loop.run_forever, name="server", daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(service.start(), loop).result()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(service.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def serve_until(service: Service, stopped: asyncio.Event, ready) -> None:
    """Start, call `ready()`, wait for `stopped`, stop. What does not come back within STOP_SECONDS (a load, a long step) is left to the
    kernel: the process ends without it, with status 0, as it was asked to."""
    await service.start()
    ready()
    await stopped.wait()
    log.info("stopping")
    try:
        await asyncio.wait_for(service.stop(), STOP_SECONDS)
    except asyncio.TimeoutError:
        log.warning("a model did not unload within %.0f s; leaving without it", STOP_SECONDS)
        logging.shutdown()
        os._exit(0)
