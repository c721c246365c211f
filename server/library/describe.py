"""Descriptions of a stored model for /api/show and /api/tags.

In: a StoredModel. Out: `ModelDetails`, `ShowResponse`. Reads the header of the GGUF file; loads nothing.
"""

import logging
import math
from typing import Any

import numpy as np

from vkbackend.gguf.reader import GGUFFile

from ..go import encode
from ..go import text as go_text
from ..wire.native import ListedModel, ListResponse, Message, ModelDetails, ShowResponse, TensorDescription
from . import modelfile
from .capabilities import capabilities
from .model import StoredModel, StoreError
from .modelfile import Command
from .quantization import tensor_type_name
from .store import Store

log = logging.getLogger(__name__)

_HIDDEN_KEYS = ("general.name", "tokenizer.chat_template")
_NAME_WIDTH = 30


def details(model: StoredModel, parent: str = "") -> ModelDetails:
    """Details from the model's config."""
    config = model.config
    return ModelDetails(
        parent,
        config.get("model_format") or "",
        config.get("model_family") or "",
        config.get("model_families"),
        config.get("model_type") or "",
        config.get("file_type") or "",
    )


def list_models(store: Store) -> ListResponse:
    """Every model of a store that can be used. Blocks."""
    listed = []
    for model in store.list():
        try:
            about = details(model)
        except StoreError as error:  # deleted in the meantime, or without its config
            log.warning("leaving %s out of the list of models: %s", model.name, error)
            continue
        listed.append(
            ListedModel(
                model.name,
                model.name,
                modified_at=encode.rfc3339_nano(model.modified_at),
                size=model.size,
                digest=model.digest,
                details=about,
            )
        )
    return ListResponse(listed)


def _open_weights(model: StoredModel) -> GGUFFile | None:
    """Raises StoreError, GGUFError, FileNotFoundError."""
    if model.gguf_path is None:
        return None
    try:
        return GGUFFile.open(model.gguf_path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(
            f"model {model.name}: blob {model.gguf_path.name} cannot be read ({error.strerror}); pull or create the "
            f"model again"
        ) from None


def show(
    model: StoredModel, system: str = "", options: dict[str, Any] | None = None, verbose: bool = False
) -> ShowResponse:
    """The answer of /api/show.

    system, options: override the model's in the Modelfile shown. verbose: include whole arrays of metadata.
    Raises StoreError, GGUFError, UnsupportedModel, FileNotFoundError.
    """
    gguf = _open_weights(model)
    system = system or model.system
    messages = [
        Message(role=str(message.get("role") or ""), content=str(message.get("content") or ""))
        for message in model.messages
    ]
    answer = ShowResponse(
        license="\n".join(model.licenses),
        template=model.template,
        system=system,
        details=details(model, model.parent),
        messages=messages,
        capabilities=capabilities(model, gguf.metadata if gguf else None),
        modified_at=encode.rfc3339_nano(model.modified_at),
        renderer=model.config.get("renderer") or "",
        parser=model.config.get("parser") or "",
        remote_model=model.config.get("remote_model") or "",
        remote_host=model.config.get("remote_host") or "",
    )
    answer.parameters = "\n".join(
        f"{name:<{_NAME_WIDTH}} {go_text.sharp_value(item)}"
        for name, value in model.parameters.items()
        for item in (value if isinstance(value, list) else [value])
    )
    answer.modelfile = modelfile_text(model, system, model.parameters | (options or {}), messages)
    if gguf:
        answer.model_info = model_info(gguf, verbose)
        answer.tensors = [
            TensorDescription(info.name, tensor_type_name(info.type), list(reversed(info.shape)))
            for info in gguf.tensors.values()
        ]
    if model.projector_paths:
        answer.projector_info = model_info(GGUFFile.open(model.projector_paths[0]), verbose)
    return answer


def parameter_count(gguf: GGUFFile) -> int:
    """Number of elements of all tensors."""
    return sum(math.prod(info.shape) for info in gguf.tensors.values())


def model_info(gguf: GGUFFile, verbose: bool) -> dict[str, Any]:
    """Metadata of the file and its number of parameters. Unless `verbose`, arrays are null if they are not empty."""
    info: dict[str, Any] = {"general.parameter_count": parameter_count(gguf)}
    for key in gguf.metadata:
        if key in _HIDDEN_KEYS:
            continue
        length = gguf.metadata.array_length(key)
        info[key] = _value(gguf.metadata[key]) if length is None or verbose else [] if length == 0 else None
    return info


def _value(value: Any) -> Any:
    """`value` for JSON: NaN and infinities become null."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
        return [_value(float(item)) for item in value]
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    # A number that float32 holds exactly was stored as one and is shown with as many digits.
    with np.errstate(over="ignore"):
        return encode.Float32(value) if float(np.float32(value)) == value else value


def modelfile_text(model: StoredModel, system: str, parameters: dict[str, Any], messages: list[Message]) -> str:
    """A Modelfile that recreates this model."""
    paths = [path for path in (model.gguf_path, *model.projector_paths) if path]
    commands = [Command("model", str(path)) for path in paths[:1]]
    commands += [Command("adapter", str(path)) for path in model.adapter_paths]
    commands += [Command("model", str(path)) for path in paths[1:]]
    commands.append(Command("template", model.template))
    commands += [
        Command(name, text)
        for name, text in (
            ("system", system),
            ("renderer", model.config.get("renderer")),
            ("parser", model.config.get("parser")),
        )
        if text
    ]
    commands += [
        Command(name, go_text.value(item))
        for name, value in parameters.items()
        for item in (value if isinstance(value, list) else [value])
    ]
    commands += [Command("license", text) for text in model.licenses]
    commands += [Command("message", f"{message.role}: {message.content}") for message in messages]
    return (
        '# Modelfile generated by "ollama show"\n# To build a new Modelfile based on this, replace FROM with:\n'
        f"# FROM {model.name}\n\n{modelfile.write(commands)}"
    )
