"""Stored models and loaders for LoadedModels, and conditions to wait for."""

import asyncio
from types import SimpleNamespace


class LoaderOf:
    """A loader that calls `load(stored, options)`, on one device."""

    def __init__(self, load):
        self._load = load

    def load(self, stored, options, whole, progress):
        return self._load(stored, options)

    def check_alone(self, stored, options, held):
        pass

    def num_devices(self):
        return 1


def stored(name, weights=None):
    """weights: whose it is made of, where that is not its own."""
    return SimpleNamespace(
        name=f"{name}:latest", digest=f"digest of {name}", gguf_path=f"weights of {weights or name}", config={}
    )


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)
