"""Which files of a folder are a model's weights. In: names. Out: those that are taken. Shared by the server and the
`create` command.
"""

import re


def chosen(names: list[str]) -> list[str]:
    """Sorted. Some folders hold a model twice, in the form of its maker (consolidated*.safetensors) and in Hugging
    Face's (model*.safetensors): then only the latter are taken.
    """
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    if any(re.match(r"model\b", _base(name)) for name in weights):
        weights = [name for name in weights if not _base(name).startswith("consolidated")]
    return weights


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]
