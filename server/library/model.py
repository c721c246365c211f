"""A model as its manifest describes it: layers and, read on first use, the texts in them.

In: a manifest and where the blobs are. Out: `StoredModel`, which every other part of the server knows models by. The
errors of the store stand here too. Knows nothing of HTTP or GGUF, and changes nothing.
"""

import errno
import json
import math
import os
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vkbackend.errors import VkbackendError

from ..go.human import human_bytes
from .names import ModelName

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
MODEL, ADAPTER, PROJECTOR, TEMPLATE, SYSTEM, PARAMS, MESSAGES, LICENSE = (
    f"application/vnd.ollama.image.{kind}"
    for kind in ("model", "adapter", "projector", "template", "system", "params", "messages", "license")
)
PROMPT = "application/vnd.ollama.image.prompt"  # what very old models call their template
LARGEST_MANIFEST_BYTES = 4 << 20  # also of a config and of parameters
LARGEST_TEXT_BYTES = 64 << 20  # of a template, a system prompt, a license or messages
DEFAULT_TEMPLATE = "{{ .Prompt }}"
# What is read from a config blob. Anything else in it is passed on to nobody.
_CONFIG_KINDS = {"model_families": list, "capabilities": list} | dict.fromkeys(
    ("model_format", "model_family", "model_type", "file_type", "renderer", "parser", "remote_model", "remote_host"),
    str,
)


class StoreError(VkbackendError):
    """The store on disk is not as it should be, or cannot be changed."""


class StoreBusy(StoreError):
    """Another program, or another request, is changing the store for longer than we wait."""


class InvalidName(VkbackendError):
    """A text that is no model name."""


class InvalidDigest(VkbackendError):
    def __init__(self):
        super().__init__("invalid digest format")


class DigestMismatch(VkbackendError):
    """Contents that are not what their digest says."""

    def __init__(self, expected: str, actual: str):
        super().__init__(f'digest mismatch, expected "{expected}", got "{actual}"')


class ModelNotFound(VkbackendError):
    def __init__(self, name):
        super().__init__(f"model '{name}' not found")


def largest_bytes(media_type: str) -> int:
    """How large a blob may be that is read as a whole."""
    return LARGEST_MANIFEST_BYTES if media_type in (PARAMS, CONFIG_TYPE) else LARGEST_TEXT_BYTES


def read_plain(path: Path, largest: int) -> tuple[bytes, os.stat_result]:
    """The contents of a file of the store, and its status. Never waits, and reads `largest` bytes at most.

    Raises OSError, also for a larger file and for what is not a plain file (a pipe, a device, a folder).
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file")
        contents = file.read(largest + 1)
        if len(contents) > largest:
            raise OSError(errno.EFBIG, f"it has {human_bytes(status.st_size)}, at most {largest >> 20} MiB are read")
    return contents, status


def parse_json(contents: bytes):
    """A file of the store -> its value. Raises ValueError for everything that Go's decoder refuses too: no JSON,
    brackets nested without end, NaN, numbers that no float64 holds.
    """
    try:
        return json.loads(contents, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} is no number that JSON can hold")
    return float(text)


@dataclass(frozen=True)
class Layer:
    """`source` tells where a layer was taken from: a model's name or a file; shown as parent model."""

    media_type: str
    digest: str
    size: int
    source: str = ""

    def as_json(self) -> dict:
        # Key order as the original writes it; `from` only where there is something to say.
        entry = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return entry | {"from": self.source} if self.source else entry


@dataclass(frozen=True)
class Manifest:
    """What one name stands for. `digest` is the SHA-256 of the manifest file, 64 hexadecimal digits; `modified_ns`
    since 1970.
    """

    name: ModelName
    digest: str
    modified_ns: int
    config: Layer
    layers: list[Layer] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def digests(self) -> set[str]:
        return {self.config.digest, *(layer.digest for layer in self.layers)}


class StoredModel:
    """A model as its manifest describes it; the texts of its layers are read on first use.

    `name` is the short name (`m:latest`), `full_name` all four parts, `digest` that of the manifest, `size` in
    bytes, `modified_at` in nanoseconds since 1970. Reading a layer raises StoreError where its blob is gone or
    damaged.
    """

    def __init__(self, store, manifest: Manifest):
        self._store, self.manifest = store, manifest
        self.full_name, self.name = manifest.name, manifest.name.shortest
        self.digest, self.size, self.modified_at = manifest.digest, manifest.size, manifest.modified_ns

    def _paths(self, *media_types) -> list[Path]:
        return [
            self._store.blob_path(layer.digest) for layer in self.manifest.layers if layer.media_type in media_types
        ]

    def _read(self, path: Path, largest: int = LARGEST_TEXT_BYTES) -> bytes:
        try:
            return read_plain(path, largest)[0]
        except OSError as error:
            raise StoreError(
                f"model {self.name}: blob {path.name} cannot be read ({error.strerror}); pull or create the model again"
            ) from None

    def _texts(self, *media_types) -> list[str]:
        return [self._read(path).decode("utf-8", "replace") for path in self._paths(*media_types)]

    def _json(self, path: Path, largest: int = LARGEST_MANIFEST_BYTES):
        try:
            return parse_json(self._read(path, largest))
        except ValueError:
            raise StoreError(
                f"model {self.name}: blob {path.name} is not JSON; pull or create the model again"
            ) from None

    @cached_property
    def config(self) -> dict:
        """The config blob: `model_format`, `model_family`, `model_families`, `model_type` (size), `file_type`
        (quantization)...
        """
        config = self._json(self._store.blob_path(self.manifest.config.digest)) if self.manifest.config.digest else {}
        config = config if isinstance(config, dict) else {}
        for key, kind in _CONFIG_KINDS.items():
            value = config.get(key)
            if value is not None and not (isinstance(value, kind) and all(isinstance(item, str) for item in value)):
                raise StoreError(
                    f"model {self.name}: {key} of its config {self.manifest.config.digest} is no "
                    f"{'text' if kind is str else 'list of texts'}; pull or create the model again"
                )
        return config

    @property
    def model_layer(self) -> Layer | None:
        return next((layer for layer in reversed(self.manifest.layers) if layer.media_type == MODEL), None)

    @property
    def gguf_path(self) -> Path | None:
        return self._store.blob_path(self.model_layer.digest) if self.model_layer else None

    @property
    def parent(self) -> str:
        """The model or file this one was made from, or nothing."""
        return self.model_layer.source if self.model_layer else ""

    @property
    def adapter_paths(self) -> list[Path]:
        return self._paths(ADAPTER)

    @property
    def has_template(self) -> bool:
        """Whether the model has a Go template of its own."""
        return any(layer.media_type in (TEMPLATE, PROMPT) for layer in self.manifest.layers)

    @property
    def projector_paths(self) -> list[Path]:
        return self._paths(PROJECTOR)

    @cached_property
    def template(self) -> str:
        texts = self._texts(TEMPLATE, PROMPT)
        return texts[-1] if texts else DEFAULT_TEMPLATE

    @cached_property
    def system(self) -> str:
        return (self._texts(SYSTEM) or [""])[-1]

    @cached_property
    def licenses(self) -> list[str]:
        return self._texts(LICENSE)

    @cached_property
    def parameters(self) -> dict:
        """Options of the model, numbers as floats, as a request's options are."""
        result = {}
        for path in self._paths(PARAMS):
            values = self._json(path)
            result.update(values if isinstance(values, dict) else {})
        return {name: float(value) if type(value) is int else value for name, value in result.items()}

    @cached_property
    def messages(self) -> list[dict]:
        """Example messages that come first in every conversation: objects with `role` and `content`."""
        result = []
        for path in self._paths(MESSAGES):
            values = self._json(path, LARGEST_TEXT_BYTES)
            result = values if isinstance(values, list) else []
        return [message for message in result if isinstance(message, dict)]
