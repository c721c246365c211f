"""qwen3moe: qwen3 with a mixture of experts in every layer."""

from .qwen3 import Model, config

__all__ = ["Model", "config"]
