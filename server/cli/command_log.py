"""The log of a command that runs models in its own process."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from vkbackend import settings


@contextmanager
def command_log() -> Iterator[None]:
    """Log errors to stderr, or what OLLAMA_DEBUG asks for: the rest of the terminal belongs to the command."""
    from ..http.log import formatter  # imports aiohttp

    handler = logging.StreamHandler()
    handler.setFormatter(formatter(settings.get("VKBACKEND_LOG_FORMAT")))
    logger = logging.getLogger("vkbackend")
    level = logger.level
    logger.setLevel(settings.log_level() if settings.get("OLLAMA_DEBUG") else logging.ERROR)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(level)
