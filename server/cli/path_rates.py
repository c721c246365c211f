"""Whether a software Vulkan driver or the CPU path is faster on this machine, as measured with a model.

Where there is a GPU, nothing is measured and nothing is said. Rates are kept in the cache folder, for this machine and
version: `doctor` measures them, `serve` lets a child process do so if nobody has yet.
"""

import asyncio
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from vkbackend import settings
from vkbackend.cpu.library import cpu_flags
from vkbackend.cpu.threads import default_threads
from vkbackend.device.device_info import DeviceInfo
from vkbackend.device.selection import Survey

from ..library.store import Store
from ..version import version

log = logging.getLogger(__name__)

SMALL_BYTES = 512 << 20  # `serve` measures with models up to this size only
WAIT_SECONDS = 10  # before `serve` measures, so that it delays neither the start nor the first request
LOWEST_PRIORITY = 19
BUSY_PERCENT = 25  # of all cores
BUSY = "other programs are running, so this may be wrong and is not kept"


@dataclass(frozen=True)
class PathRates:
    """Tokens per second that `model` decodes on a software driver and on the CPU path. device_key: `DeviceInfo.key`."""

    device: str
    device_key: str
    model: str
    on_device: float
    on_cpu: float

    @property
    def device_is_faster(self) -> bool:
        return self.on_device > self.on_cpu

    def sentence(self, uses_device: bool) -> str:
        """Which path is faster, and how to take it. uses_device: which one is in use now."""
        faster = "the driver" if self.device_is_faster else "the CPU path"
        if uses_device == self.device_is_faster:
            advice = "in use"
        else:
            advice = f"set OLLAMA_VULKAN={int(self.device_is_faster)} to use it"
        return (
            f"{self.device} is a software driver: {self.model} runs at {self.on_device:.1f} tokens/s on it and "
            f"{self.on_cpu:.1f} tokens/s on the CPU path; {faster} is faster ({advice})"
        )


def remember(rates: PathRates) -> None:
    """Keep rates for later processes."""
    settings.write_checked(_path(), json.dumps(asdict(rates)).encode())


def known(device: DeviceInfo | None = None) -> PathRates | None:
    """The rates measured on this machine. device: the driver that they must belong to; None: any."""
    data = settings.read_checked(_path())
    if data is None:
        return None
    rates = PathRates(**json.loads(data))
    return rates if device is None or device.key == rates.device_key else None


def advice(found: Survey) -> str:
    """Which path is faster; empty with a GPU, before a measurement, or if no driver is in use and none is faster."""
    if found.is_switched_on:
        rates = known(found.chosen) if found.chosen is not None and found.chosen.is_cpu else None
    else:
        rates = known()
        if rates is not None and not rates.device_is_faster:
            return ""
    return "" if rates is None else rates.sentence(found.uses_device)


def is_idle() -> bool:
    """Whether the cores have nothing else to do. Rates measured beside other programs are wrong: the CPU path's threads
    wait for each other hundreds of times for a token, and each wait then lasts until the system runs all of them.
    """
    import psutil

    return psutil.cpu_percent(interval=0.3) < BUSY_PERCENT


def _path() -> Path:
    """The file of this machine and version. Rates change with the CPU, the threads, and what computes on the CPU."""
    settled = version(), cpu_flags(), default_threads(), settings.get("VKBACKEND_CPU"), find_spec("ggml") is not None
    return settings.cache_folder() / "path-rates" / hashlib.sha256(repr(settled).encode()).hexdigest()[:16]


@contextmanager
def measured_later(found: Survey, store: Store) -> Iterator[None]:
    """Within the block, in a running event loop, measure what is not known yet about the driver in use; log it."""
    device = found.chosen
    if not found.uses_device or device is None or not device.is_cpu or known(device) is not None:
        yield
        return
    task = asyncio.create_task(_measure_later(found, store))
    try:
        yield
    finally:
        task.cancel()


async def _measure_later(found: Survey, store: Store) -> None:
    """Measure with the smallest model, once the machine is idle, in a child process of low priority."""
    await asyncio.sleep(WAIT_SECONDS)
    while not await asyncio.to_thread(is_idle):
        await asyncio.sleep(WAIT_SECONDS)
    model = await asyncio.to_thread(_small_model, store)
    if model is not None:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vkbackend", "doctor", "--speed", model),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            if hasattr(os, "setpriority"):
                os.setpriority(os.PRIO_PROCESS, child.pid, LOWEST_PRIORITY)
            await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
    assert found.chosen is not None, "a driver is in use"
    log.info(
        advice(found)
        or f"{found.chosen.name} is a software driver, and the CPU path may be faster; `vkbackend doctor MODEL` "
        "measures both"
    )


def _small_model(store: Store) -> str | None:
    """The name of the smallest model, if it is small."""
    models = [model for model in store.list() if model.gguf_path is not None and not model.adapter_paths]
    smallest = min(models, key=lambda model: model.size, default=None)
    return smallest.name if smallest is not None and smallest.size <= SMALL_BYTES else None
