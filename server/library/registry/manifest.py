"""A registry's manifest: bytes -> config and layers, checked before anything is asked for; and what of ours others
get to see.
"""

import json
from pathlib import PurePosixPath, PureWindowsPath

from ..model import InvalidDigest, Layer, parse_json
from ..upload import normal_digest
from .errors import RegistryError

LARGEST_BYTES = 4 << 20


def parse(contents: bytes, name: str) -> tuple[Layer, list[Layer]]:
    """-> (config, layers); sizes that are not given are 0. Raises RegistryError."""
    try:
        document = parse_json(contents)
        layers = [_layer(entry) for entry in document["layers"]]
        config = _layer(document["config"]) if document.get("config") else Layer("", "", 0)
    except (ValueError, KeyError, TypeError, AttributeError, InvalidDigest) as error:
        raise RegistryError(
            f"the manifest of {name} is none that can be used here ({error or type(error).__name__}): "
            "it must name a config and layers, each with a sha256 digest"
        ) from None
    if not layers:
        raise RegistryError(f"the manifest of {name} names no layers: there is nothing to pull")
    return config, layers


def for_others(contents: bytes) -> bytes:
    """Byte for byte, but for layers that say which file on this machine they were made from: its path is nobody's
    business.
    """
    document = parse_json(contents)
    told = [layer for layer in document["layers"] if _is_path(layer.get("from") or "")]
    if not told:
        return contents
    for layer in told:
        del layer["from"]
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _is_path(source: str) -> bool:
    return PurePosixPath(source).is_absolute() or PureWindowsPath(source).is_absolute()


def _layer(entry: dict) -> Layer:
    size = entry.get("size") or 0
    if type(size) is not int or not 0 <= size < 1 << 62:
        raise ValueError(f"size is {size}")
    media_type, source = entry.get("mediaType") or "", entry.get("from") or ""
    if not isinstance(media_type, str) or not isinstance(source, str):
        raise ValueError(f"mediaType is {media_type}, from is {source}")
    return Layer(media_type, normal_digest(entry["digest"]), size, source)
