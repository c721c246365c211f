"""A model as its manifest describes it: layers and, read on first use, the texts in them. Also the store's errors.

In: a manifest and the paths of blobs. Out: `StoredModel`, the type of a model in the rest of the server. Knows nothing
of HTTP or GGUF, and changes nothing.
"""

import errno
import json
import math
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vkbackend.errors import VkbackendError

from ..go.human import human_bytes
from .names import ModelName

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
MODEL, ADAPTER, PROJECTOR, TEMPLATE, SYSTEM, PARAMS, MESSAGES, LICENSE = (
    f"application/vnd.ollama.image.{kind}"
    for kind in ("model", "adapter", "projector", "template", "system", "params", "messages", "license")
)
PROMPT = "application/vnd.ollama.image.prompt"  # the template of very old models
MAX_MANIFEST_BYTES = 4 << 20  # also for a config and for parameters
MAX_TEXT_BYTES = 64 << 20  # for a template, a system prompt, a license, and messages
DEFAULT_TEMPLATE = "{{ .Prompt }}"
# Keys read from a config blob, and their types; others are ignored.
_CONFIG_KINDS = {"model_families": list, "capabilities": list} | dict.fromkeys(
    ("model_format", "model_family", "model_type", "file_type", "renderer", "parser", "remote_model", "remote_host"),
    str,
)


class StoreError(VkbackendError):
    """The store on disk is damaged, or cannot be changed."""


class StoreBusy(StoreError):
    """Another program or request has been changing the store for longer than the lock timeout."""


class InvalidName(VkbackendError):
    """Not a model name."""


class InvalidDigest(VkbackendError):
    """Not a digest."""

    def __init__(self) -> None:
        super().__init__("invalid digest format")


class DigestMismatch(VkbackendError):
    """Contents do not match their digest."""

    def __init__(self, expected: str, actual: str):
        super().__init__(f'digest mismatch, expected "{expected}", got "{actual}"')


class ModelNotFound(VkbackendError):
    """The store has no model of this name."""

    def __init__(self, name: str):
        super().__init__(f"model '{name}' not found")


def max_bytes(media_type: str) -> int:
    """Largest blob of this type that is read as a whole, in bytes."""
    return MAX_MANIFEST_BYTES if media_type in (PARAMS, CONFIG_TYPE) else MAX_TEXT_BYTES


def read_plain(path: Path, limit: int) -> tuple[bytes, os.stat_result]:
    """Contents and status of a file in the store. Never blocks.

    Raises OSError, also for a file of more than `limit` bytes, and if it is not a regular file (a pipe, a device, a
    folder).
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        contents = file.read(limit + 1)
        if len(contents) > limit:
            raise OSError(errno.EFBIG, f"{human_bytes(status.st_size)} is more than the limit of {limit >> 20} MiB")
    return contents, status


def parse_json(contents: bytes) -> Any:
    """Value of a JSON file in the store.

    Raises ValueError for what Go's decoder rejects, too: invalid JSON, extreme nesting, NaN, numbers beyond float64.
    """
    try:
        return json.loads(contents, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"JSON cannot hold the number {text}")
    return float(text)


@dataclass(frozen=True)
class Layer:
    """`source`: the model or file that a layer was taken from, shown as parent model."""

    media_type: str
    digest: str
    size: int
    source: str = ""

    def as_json(self) -> dict[str, Any]:
        """Entry of a manifest, with keys in the original's order."""
        entry: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return entry | {"from": self.source} if self.source else entry


@dataclass(frozen=True)
class Manifest:
    """Layers of one name. digest: SHA-256 of the manifest file, in hexadecimal; modified_ns: nanoseconds since 1970."""

    name: ModelName
    digest: str
    modified_ns: int
    config: Layer
    layers: list[Layer] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def digests(self) -> set[str]:
        """Digests of all layers."""
        return {self.config.digest, *(layer.digest for layer in self.layers)}


class StoredModel:
    """A model as its manifest describes it; the texts of its layers are read on first use.

    name: the short name (`m:latest`), full_name: all four parts, digest: that of the manifest, size: in bytes,
    modified_at: nanoseconds since 1970. Reading a layer raises StoreError if its blob is missing or damaged.
    """

    def __init__(self, blob_path: Callable[[str], Path], manifest: Manifest):
        self._blob_path = blob_path
        self.manifest = manifest
        self.full_name = manifest.name
        self.name = manifest.name.shortest
        self.digest = manifest.digest
        self.size = manifest.size
        self.modified_at = manifest.modified_ns

    def _paths(self, *media_types: str) -> list[Path]:
        return [self._blob_path(layer.digest) for layer in self.manifest.layers if layer.media_type in media_types]

    def _read(self, path: Path, limit: int = MAX_TEXT_BYTES) -> bytes:
        try:
            return read_plain(path, limit)[0]
        except OSError as error:
            raise StoreError(
                f"model {self.name}: blob {path.name} cannot be read ({error.strerror}); pull or create the model again"
            ) from None

    def _texts(self, *media_types: str) -> list[str]:
        return [self._read(path).decode("utf-8", "replace") for path in self._paths(*media_types)]

    def _json(self, path: Path, limit: int = MAX_MANIFEST_BYTES) -> Any:
        try:
            return parse_json(self._read(path, limit))
        except ValueError:
            raise StoreError(
                f"model {self.name}: blob {path.name} is not JSON; pull or create the model again"
            ) from None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config blob: `model_format`, `model_family`, `model_families`, `model_type` (size), `file_type`
        (quantization), ...
        """
        config = self._json(self._blob_path(self.manifest.config.digest)) if self.manifest.config.digest else {}
        config = config if isinstance(config, dict) else {}
        for key, kind in _CONFIG_KINDS.items():
            value = config.get(key)
            if value is not None and not (isinstance(value, kind) and all(isinstance(item, str) for item in value)):
                raise StoreError(
                    f"model {self.name}: {key} of its config {self.manifest.config.digest} is not a "
                    f"{'string' if kind is str else 'list of strings'}; pull or create the model again"
                )
        return config

    @property
    def model_layer(self) -> Layer | None:
        """The layer with the weights."""
        return next((layer for layer in reversed(self.manifest.layers) if layer.media_type == MODEL), None)

    @property
    def gguf_path(self) -> Path | None:
        """The GGUF file with the weights."""
        return self._blob_path(self.model_layer.digest) if self.model_layer else None

    @property
    def parent(self) -> str:
        """The model or file that this one was made from, or ""."""
        return self.model_layer.source if self.model_layer else ""

    @property
    def adapter_paths(self) -> list[Path]:
        """GGUF files of adapters."""
        return self._paths(ADAPTER)

    @property
    def has_template(self) -> bool:
        """Whether the model has a Go template of its own."""
        return any(layer.media_type in (TEMPLATE, PROMPT) for layer in self.manifest.layers)

    @property
    def projector_paths(self) -> list[Path]:
        """GGUF files of vision projectors."""
        return self._paths(PROJECTOR)

    @cached_property
    def template(self) -> str:
        """The Go template, or DEFAULT_TEMPLATE."""
        texts = self._texts(TEMPLATE, PROMPT)
        return texts[-1] if texts else DEFAULT_TEMPLATE

    @cached_property
    def system(self) -> str:
        """The system prompt, or ""."""
        return (self._texts(SYSTEM) or [""])[-1]

    @cached_property
    def licenses(self) -> list[str]:
        """Texts of the licenses."""
        return self._texts(LICENSE)

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Options of the model; numbers are floats, as in a request's options."""
        result: dict[str, Any] = {}
        for path in self._paths(PARAMS):
            values = self._json(path)
            result.update(values if isinstance(values, dict) else {})
        return {name: float(value) if type(value) is int else value for name, value in result.items()}

    @cached_property
    def messages(self) -> list[dict[str, Any]]:
        """Messages that every conversation begins with: objects with `role` and `content`."""
        result: list[Any] = []
        for path in self._paths(MESSAGES):
            values = self._json(path, MAX_TEXT_BYTES)
            result = values if isinstance(values, list) else []
        return [message for message in result if isinstance(message, dict)]
