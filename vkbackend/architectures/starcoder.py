"""starcoder: gpt2 with one key and value head for all queries."""

from .gpt2 import Model, config

__all__ = ["Model", "config"]
