"""Converts a parsed Modelfile to a create request.

In: the commands from `modelfile.parse`, the Modelfile's folder. Out: `CreateRequest`, and the files to upload as blobs
first.
"""

from collections.abc import Callable
from pathlib import Path

from vkbackend import settings
from vkbackend.errors import VkbackendError

from ..library.convert.file_choice import chosen
from ..library.modelfile import Command
from ..wire.native import CreateRequest, Message
from ..wire.options import format_parameters

# Files of a Hugging Face folder that describe its weights.
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
ADAPTER_CONFIG = "adapter_config.json"
# Parameters of old Modelfiles that have no effect.
DEPRECATED = (
    "penalize_newline",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mlock",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
)


class ModelfileProblem(VkbackendError):
    """The Modelfile cannot be converted to a request."""


def create_request(
    commands: list[Command],
    folder: Path,
    digest: Callable[[Path], str],
    warn: Callable[[str], object] = lambda text: None,
) -> tuple[CreateRequest, dict[str, Path]]:
    """Return (request, {digest: path} of the files that FROM and ADAPTER name).

    FROM names a file or a folder of safetensors or GGUF files, relative to the Modelfile, or else a model.
    digest(path) returns "sha256:..." of a file. Raises ModelfileProblem.
    """
    request = CreateRequest()
    parameters: dict[str, object] = {}
    files: dict[str, Path] = {}
    licenses: list[str] = []
    for command in commands:
        if command.name == "model":
            found = _weights(command.args, folder)
            if found is None:
                request.from_ = command.args
            else:
                request.files = (request.files or {}) | {path.name: _add(files, digest, path) for path in found}
        elif command.name == "adapter":
            request.adapters = {path.name: _add(files, digest, path) for path in _adapter(command.args, folder)}
        elif command.name in ("template", "system", "renderer", "parser"):
            setattr(request, command.name, command.args)
        elif command.name == "license":
            licenses.append(command.args)
        elif command.name == "message":
            role, _, content = command.args.partition(": ")
            request.messages = (request.messages or []) + [Message(role=role, content=content)]
        elif command.name in DEPRECATED:
            warn(f"warning: parameter {command.name} is deprecated and has no effect")
        else:
            _add_parameter(parameters, command)
    request.parameters = parameters or None
    request.license = licenses or None
    return request, files


def _add_parameter(parameters: dict, command: Command) -> None:
    """Add a parameter. A later line overrides an earlier one, except that `stop` lines accumulate."""
    try:
        value = format_parameters({command.name: [command.args]})[command.name]
    except ValueError as error:
        raise ModelfileProblem(str(error)) from None
    parameters[command.name] = parameters.get(command.name, []) + value if isinstance(value, list) else value


def _add(files: dict, digest: Callable[[Path], str], path: Path) -> str:
    key = digest(path)
    files[key] = path
    return key


def _path(text: str, folder: Path) -> Path:
    return folder / (settings.expanded(text) if text.startswith("~") else text)


def _weights(text: str, folder: Path) -> list[Path] | None:
    """Return the files that FROM names, or None if it names a model."""
    path = _path(text, folder)
    if path.is_dir():
        found = _weights_of_folder(path)
        if not found:
            raise ModelfileProblem("no Modelfile or safetensors files found")
        return found
    if not path.is_file():
        return None
    return [path, *_companions(path.parent)] if path.suffix == ".safetensors" else [path]


def _adapter(text: str, folder: Path) -> list[Path]:
    """Return the files that ADAPTER names: a GGUF file, or safetensors files and their description."""
    path = _path(text, folder)
    if not path.exists():
        raise ModelfileProblem(f"stat {path}: no such file or directory")
    if path.is_dir():
        found = _weights_of_folder(path)
        if not found:
            raise ModelfileProblem("no Modelfile or safetensors files found")
    else:
        found = [path]
    config = found[0].parent / ADAPTER_CONFIG
    return [*found, config] if found[0].suffix == ".safetensors" and config.is_file() else found


def has_weights(folder: Path) -> bool:
    """Whether a folder contains safetensors or GGUF files."""
    return bool(_weights_of_folder(folder))


def _weights_of_folder(folder: Path) -> list[Path]:
    """Return the safetensors files and their companions, or the GGUF files if there are none."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    weights = [folder / name for name in chosen(names)]
    return weights + _companions(folder) if weights else [folder / name for name in names if name.endswith(".gguf")]


def _companions(folder: Path) -> list[Path]:
    return [folder / name for name in COMPANIONS if (folder / name).is_file()]
