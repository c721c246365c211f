"""`serve`: runs the server in the foreground, until SIGINT or SIGTERM.

On stdout: the address, the device models run on and why, a request to try. On stderr: the log, beginning with the
devices if Vulkan is switched on.
"""

import asyncio
import json
import logging
import os
import signal
from collections.abc import Callable

import click

from vkbackend import settings
from vkbackend.device.selection import Survey, survey_for_models

from ..http.address import Address, from_environment
from ..http.connections import raise_file_limit
from ..library.store import Store
from ..serving import Service, listen, serve_until, start_log
from ..version import OLLAMA_VERSION, version
from . import path_rates
from .devices import describe
from .main import CommandWithEnvironment

log = logging.getLogger(__name__)


@click.command(cls=CommandWithEnvironment)
def serve() -> None:
    """Start the server."""
    start_log()
    raise_file_limit()
    address = from_environment()
    listening = listen(address)  # first, so that a second server does not touch the devices
    found = survey_for_models()
    log_devices(found)
    store = Store(settings.models_folder())
    service = Service(listening, store, logging.getLogger("access"))
    # Port 0 asks for any free port.
    actual = Address("http", address.host, str(listening.getsockname()[1])).for_clients.url
    asyncio.run(_run(service, found, lambda: click.echo("\n".join(ready_lines(actual, found, store)))))


def log_devices(found: Survey) -> None:
    """Log each device and whether it is used, and whether another path is faster."""
    for device in found.devices:
        log.info("device %d: %s: %s", device.index, describe(device), found.reasons[device.index])
    if found.problem:
        log.warning("no usable Vulkan device: %s", found.problem)
    if advice := path_rates.advice(found):
        log.info(advice)


def ready_lines(url: str, found: Survey, store: Store) -> list[str]:
    """Return the lines printed when the server is ready."""
    models = store.list()
    lines = [
        f"vkbackend {version()} is ready at {url} (Ollama API {OLLAMA_VERSION})",
        f"Models run on: {found.sentence}",
    ]
    if not models:
        return lines + [f"No models yet in {store.root}; create one: vkbackend create NAME --gguf FILE.gguf"]
    body = json.dumps(
        {"model": models[0].name.removesuffix(":latest"), "prompt": "Why is the sky blue?", "logprobs": True}
    )
    return lines + [f"Try: curl {url}/api/generate -d '{body}'"]


def handle_stop_signals(stop: Callable[[], None]) -> None:
    """Call `stop` in the running event loop on each SIGINT and SIGTERM."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))


async def _run(service: Service, found: Survey, ready: Callable[[], None]) -> None:
    stopped = asyncio.Event()

    def stop() -> None:
        if stopped.is_set():  # the second signal exits at once
            os._exit(130)
        stopped.set()

    handle_stop_signals(stop)
    with path_rates.measured_later(found, service.store):
        await serve_until(service, stopped, ready)
