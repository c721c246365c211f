"""Every environment variable that vkbackend reads: one row each, shown by `vkbackend serve --help`.

`get(name)` reads the environment at the time of the call, so that tests and embedding programs can set it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable


def _flag(text: str) -> bool:
    return text.strip().strip("\"'").lower() not in ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class Setting:
    name: str
    default: Any
    parse: Callable[[str], Any]
    sentence: str


ROWS = [
    Setting("OLLAMA_VULKAN", False, _flag, "1 runs models on a Vulkan device; otherwise they run on the CPU"),
    Setting("GGML_VK_VISIBLE_DEVICES", "", str, "indices of the Vulkan devices that may be used, such as 0,1 (see `vkbackend devices`)"),
    Setting("OLLAMA_HOST", "127.0.0.1:11434", str, "address the server listens on"),
    Setting("OLLAMA_ORIGINS", "", str, "further origins that browsers may call from, comma-separated"),
    Setting("OLLAMA_MODELS", "", str, "folder of the model store (default ~/.ollama/models)"),
    Setting("OLLAMA_NOPRUNE", False, _flag, "1 keeps blobs that no model uses any more when a model is created anew"),
    Setting("OLLAMA_KEEP_ALIVE", "5m", str, "how long a model stays loaded after its last request; negative: for ever"),
    Setting("OLLAMA_CONTEXT_LENGTH", 4096, int, "context length where a request or model names none"),
    Setting("OLLAMA_NUM_PARALLEL", 1, int, "sequences that one model decodes together"),
    Setting("OLLAMA_MAX_QUEUE", 512, int, "requests that may wait for a model; more are refused with status 503"),
    Setting("OLLAMA_KV_CACHE_TYPE", "f16", str, "element type of the KV cache: f16 or f32"),
    Setting("OLLAMA_DEBUG", False, _flag, "1 logs more"),
    Setting("OLLAMA_NOHISTORY", False, _flag, "1 keeps no history of what is typed into `vkbackend run`"),
    Setting("VKBACKEND_CACHE", "", str, "folder of caches: SPIR-V, pipelines, wheels, starter models (default ~/.cache/vkbackend)"),
    Setting("VKBACKEND_FORCE_DISCRETE", False, _flag, "1 treats every device as one with memory of its own (tests the upload ring)"),
]
_BY_NAME = {row.name: row for row in ROWS}


def get(name: str):
    """The parsed value of a row's variable, or its default where it is unset, empty or not parsable."""
    row = _BY_NAME[name]
    text = os.environ.get(name, "").strip()
    if not text:
        return row.default
    try:
        return row.parse(text)
    except ValueError:
        return row.default


def cache_folder() -> Path:
    """Made on first use."""
    folder = Path(get("VKBACKEND_CACHE") or Path.home() / ".cache" / "vkbackend").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def models_folder() -> Path:
    return Path(get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models").expanduser()
