"""The OpenAPI document of this server: made from its routes and from the dataclasses that requests are bound to, and
a page that shows it.
"""

from .document import build
from .page import PAGE, POLICY, file

__all__ = ["PAGE", "POLICY", "build", "file"]
