"""The OpenAPI document of this server, made from its routes and from the dataclasses that requests are bound to."""

from .document import build

__all__ = ["build"]
