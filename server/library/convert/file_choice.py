"""Chooses the files of a folder that are a model's weights. Shared by the server and the `create` command."""

import re


def chosen(names: list[str]) -> list[str]:
    """Sorted names of the *.safetensors files to read.

    Some folders have a model twice, in its vendor's form (consolidated*.safetensors) and in Hugging Face's
    (model*.safetensors); only the latter is chosen then.
    """
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    if any(re.match(r"model\b", _base(name)) for name in weights):
        weights = [name for name in weights if not _base(name).startswith("consolidated")]
    return weights


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]
