"""All ops by name: `OPS["rope"].reference(...)`. To add one, write a shader, its row in shaders/variants.toml, and a
module here with an `OP`.
"""

import importlib
import pkgutil

from .op import Op


def _found() -> list[Op]:
    """The `OP` of each module here, or all of its `ALL`."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return [op for module in modules for op in getattr(module, "ALL", [getattr(module, "OP", None)]) if op is not None]


OPS: dict[str, Op] = {op.name: op for op in sorted(_found(), key=lambda op: op.name)}
