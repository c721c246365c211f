"""Stored models for LoadedModels, and conditions to wait for."""

import asyncio
from types import SimpleNamespace


def stored(name, weights=None):
    """weights: whose it is made of, where that is not its own."""
    return SimpleNamespace(
        name=f"{name}:latest", digest=f"digest of {name}", gguf_path=f"weights of {weights or name}", config={}
    )


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)
