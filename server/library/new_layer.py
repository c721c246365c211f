"""A layer of a model that is being created, and layers made from texts and values.

In: files, texts and values of a request. Out: `NewLayer`s, which `create.py` writes into the store.
"""

from dataclasses import dataclass
from typing import Any

from vkbackend.gguf.reader import GGUFFile, Metadata

from ..errors import ApiError
from ..go import encode
from ..go.human import human_bytes
from ..prompts import jinja
from .model import ADAPTER, MODEL, PARAMS, PROJECTOR, TEMPLATE, max_bytes
from .upload import Upload


@dataclass
class NewLayer:
    """A layer of the new model: an existing blob (`digest`), a text (`contents`), or a new GGUF file (`upload`)."""

    media_type: str
    digest: str = ""
    source: str = ""
    contents: bytes = b""
    status: str = ""  # status text; by default whether its blob existed before
    gguf: GGUFFile | None = None
    upload: Upload | None = None


def check_size(layer: NewLayer) -> None:
    """Raise ApiError 400 for a text too large to be read back."""
    limit = max_bytes(layer.media_type)
    if len(layer.contents) > limit:
        kind = layer.media_type.rpartition(".")[2]
        raise ApiError(400, f"{kind} has {human_bytes(len(layer.contents))}; the limit is {limit >> 20} MiB")


def detected_template(gguf: GGUFFile) -> list[NewLayer]:
    """The built-in template that replaces the file's own, and its parameters, if there is one."""
    matched = jinja.builtin_for(gguf)
    if matched is None:
        return []
    layer = NewLayer(TEMPLATE, contents=matched.text.encode(), status=f"using autodetected template {matched.name}")
    return [layer, json_layer(PARAMS, matched.parameters)] if matched.parameters else [layer]


def media_type_of(metadata: Metadata) -> str:
    """Media type of a GGUF file."""
    kind = metadata.get("general.type", str, "")
    if kind == "adapter":
        return ADAPTER
    architecture = metadata.get("general.architecture", str, "unknown")
    has_text = metadata.get(f"{architecture}.block_count", None, 0)
    has_vision = metadata.get(f"{architecture}.vision.block_count", None, 0)
    return PROJECTOR if kind == "projector" or has_vision and not has_text else MODEL


def json_layer(media_type: str, value: Any) -> NewLayer:
    """A layer with a value as JSON."""
    return NewLayer(media_type, contents=(encode.dumps(value) + "\n").encode())


def without(layers: list[NewLayer], media_type: str) -> list[NewLayer]:
    """The layers of other types."""
    return [layer for layer in layers if layer.media_type != media_type]


def licenses(value: Any) -> list[str]:
    """Texts of `license`, which is one text or a list of them."""
    if value is None or value == "":
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ApiError(500, "license must be a string or a list of strings")
    return [text for text in texts if text]
