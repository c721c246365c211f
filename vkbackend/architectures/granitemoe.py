"""granitemoe: granite with a mixture of experts, and in some files a shared expert."""

from .granite import Model, config

__all__ = ["Model", "config"]
