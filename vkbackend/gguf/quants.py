"""Every tensor format that can be read: the files of formats/."""

import importlib
import pkgutil

from gguf import GGMLQuantizationType

from . import formats
from .quant_format import GROUP, QuantFormat

__all__ = ["FORMATS", "GROUP", "QuantFormat"]


def _found() -> list[QuantFormat]:
    names = [module.name for module in pkgutil.iter_modules(formats.__path__)]
    return [importlib.import_module(f"{formats.__name__}.{name}").FORMAT for name in names]


FORMATS: dict[GGMLQuantizationType, QuantFormat] = {
    each.type: each for each in sorted(_found(), key=lambda each: each.type)
}
