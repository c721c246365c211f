"""Reads a registry's manifest, checking it before any blob is requested; and removes local paths from our own."""

import json
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from ..model import InvalidDigest, Layer, parse_json
from ..upload import normal_digest
from .errors import RegistryError

MAX_BYTES = 4 << 20


def read_manifest(contents: bytes, name: str) -> tuple[Layer, list[Layer]]:
    """(config, layers) of a manifest; missing sizes are 0. name: for errors. Raises RegistryError."""
    try:
        document = parse_json(contents)
        layers = [_layer(entry) for entry in document["layers"]]
        config = _layer(document["config"]) if document.get("config") else Layer("", "", 0)
    except (ValueError, KeyError, TypeError, AttributeError, InvalidDigest) as error:
        raise RegistryError(
            f"unsupported manifest of {name} ({error or type(error).__name__}): "
            "it must have a config and layers, each with a sha256 digest"
        ) from None
    if not layers:
        raise RegistryError(f"the manifest of {name} has no layers: there is nothing to pull")
    return config, layers


def without_local_paths(contents: bytes) -> bytes:
    """The manifest byte for byte, unless layers name the local file they were made from: those paths are removed."""
    document = parse_json(contents)
    local = [layer for layer in document["layers"] if _is_path(layer.get("from") or "")]
    if not local:
        return contents
    for layer in local:
        del layer["from"]
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _is_path(source: str) -> bool:
    return PurePosixPath(source).is_absolute() or PureWindowsPath(source).is_absolute()


def _layer(entry: dict[str, Any]) -> Layer:
    size = entry.get("size") or 0
    if type(size) is not int or not 0 <= size < 1 << 62:
        raise ValueError(f"size is {size}")
    media_type = entry.get("mediaType") or ""
    source = entry.get("from") or ""
    if not isinstance(media_type, str) or not isinstance(source, str):
        raise ValueError(f"mediaType is {media_type}, from is {source}")
    return Layer(media_type, normal_digest(entry["digest"]), size, source)
