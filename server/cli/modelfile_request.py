"""A parsed Modelfile -> the create request that it asks for.

In: commands of `modelfile.parse`, the Modelfile's folder. Out: `CreateRequest`, and the files whose blobs must be in
the store first.
"""

from pathlib import Path

from vkbackend import settings
from vkbackend.errors import VkbackendError

from ..library.convert.file_choice import chosen
from ..library.modelfile import Command
from ..wire.native import CreateRequest, Message
from ..wire.options import format_parameters

# What a Hugging Face folder says about its weights.
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
# Accepted in old Modelfiles, without effect.
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
    """A Modelfile that cannot become a request."""


def create_request(
    commands: list[Command], folder: Path, digest, warn=lambda text: None
) -> tuple[CreateRequest, dict[str, Path]]:
    """digest(path) -> "sha256:..." of a file. -> (request, {digest: path} of the files that FROM and ADAPTER name).

    What FROM names is a file, or a folder of safetensors or GGUF files, where it exists beside the Modelfile, else a
    model. Raises ModelfileProblem.
    """
    request, parameters, files = CreateRequest(), {}, {}
    for command in commands:
        if command.name == "model":
            found = _weights(command.args, folder)
            if found is None:
                request.from_ = command.args
            else:
                request.files = (request.files or {}) | {path.name: _add(files, digest, path) for path in found}
        elif command.name == "adapter":
            path = _path(command.args, folder)
            if not path.exists():
                raise ModelfileProblem(f"stat {path}: no such file or directory")
            request.adapters = {path.name: _add(files, digest, path)}
        elif command.name in ("template", "system", "renderer", "parser"):
            setattr(request, command.name, command.args)
        elif command.name == "license":
            request.license = (request.license or []) + [command.args]
        elif command.name == "message":
            role, _, content = command.args.partition(": ")
            request.messages = (request.messages or []) + [Message(role=role, content=content)]
        elif command.name in DEPRECATED:
            warn(f"warning: parameter {command.name} is deprecated and has no effect")
        else:
            _add_parameter(parameters, command)
    request.parameters = parameters or None
    return request, files


def _add_parameter(parameters: dict, command: Command) -> None:
    """A later line takes the place of an earlier one; `stop` collects."""
    try:
        value = format_parameters({command.name: [command.args]})[command.name]
    except ValueError as error:
        raise ModelfileProblem(str(error)) from None
    parameters[command.name] = parameters.get(command.name, []) + value if isinstance(value, list) else value


def _add(files: dict, digest, path: Path) -> str:
    key = digest(path)
    files[key] = path
    return key


def _path(text: str, folder: Path) -> Path:
    return folder / (settings.expanded(text) if text.startswith("~") else text)


def _weights(text: str, folder: Path) -> list[Path] | None:
    """The files that FROM names; None where it names a model."""
    path = _path(text, folder)
    if path.is_dir():
        found = _weights_of_folder(path)
        if not found:
            raise ModelfileProblem("no Modelfile or safetensors files found")
        return found
    if not path.is_file():
        return None
    return [path, *_companions(path.parent)] if path.suffix == ".safetensors" else [path]


def has_weights(folder: Path) -> bool:
    return bool(_weights_of_folder(folder))


def _weights_of_folder(folder: Path) -> list[Path]:
    """Safetensors with what belongs to them, or else GGUF files."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    weights = [folder / name for name in chosen(names)]
    return weights + _companions(folder) if weights else [folder / name for name in names if name.endswith(".gguf")]


def _companions(folder: Path) -> list[Path]:
    return [folder / name for name in COMPANIONS if (folder / name).is_file()]
