"""Every environment variable that vkbackend reads: one row each, shown by `vkbackend serve --help`.

`get(name)` reads the environment at the time of the call, so that tests and embedding programs can set it. What a row cannot use is
warned of once and counts as unset; quotes around a value are left out, as Ollama does.
"""

import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable


log = logging.getLogger(__name__)


def _flag(text: str) -> bool:
    return text.lower() not in ("0", "false", "no", "off")


def _count(zero: int, largest: int = 1 << 31):
    """A parser of whole numbers from 0 on; 0 leaves the choice to us, which is `zero`."""
    def parse(text: str) -> int:
        number = int(text) if text.isdecimal() else -1
        if not 0 <= number <= largest:
            raise ValueError("a whole number, 0 or more" if largest >= 1 << 31 else f"a whole number, 0 to {largest}")
        return number or zero
    return parse


def _one_of(*words: str):
    """A parser of words, in any case."""
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(" or ".join(words))
        return text.lower()
    return parse


@dataclass(frozen=True)
class Setting:
    """parse: text, never empty -> value; raises ValueError with what is possible."""

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
    Setting("OLLAMA_CONTEXT_LENGTH", 4096, _count(4096), "context length where a request or model names none"),
    Setting("OLLAMA_NUM_PARALLEL", 1, _count(1, 1024), "sequences that one model decodes together"),
    Setting("OLLAMA_MAX_QUEUE", 512, _count(0), "requests that may wait for a model; more are refused with status 503"),
    Setting("OLLAMA_KV_CACHE_TYPE", "f16", _one_of("f16", "f32"), "element type of the KV cache: f16 or f32"),
    Setting("OLLAMA_DEBUG", False, _flag, "1 logs more"),
    Setting("OLLAMA_NOHISTORY", False, _flag, "1 keeps no history of what is typed into `vkbackend run`"),
    Setting("VKBACKEND_PREFILL", "float32", _one_of("float32", "float16", "int8"),
            "precision of the products of steps that hold only prompts: float32, or, where the device has it, float16 or int8 (faster on some GPUs; int8 rounds as llama.cpp does)"),
    Setting("VKBACKEND_DETERMINISTIC", False, _flag, "1 computes prompts in decode's order and precision, whatever VKBACKEND_PREFILL says"),
    Setting("VKBACKEND_AUTOTUNE", True, _flag, "0 measures no kernels where a model runs for the first time; those measured before are still used"),
    Setting("VKBACKEND_CACHE", "", str, "folder of caches: SPIR-V, pipelines, measured kernels, wheels, starter models (default ~/.cache/vkbackend)"),
    Setting("VKBACKEND_FORCE_DISCRETE", False, _flag, "1 treats every device as a GPU with memory of its own (to test what GPUs get)"),
]
_BY_NAME = {row.name: row for row in ROWS}
_warned: set[tuple[str, str]] = set()  # (name, text) of what was complained about


def get(name: str):
    """The parsed value of a row's variable, or its default where it is unset, empty or not usable, which is warned of once."""
    row = _BY_NAME[name]
    text = os.environ.get(name, "").strip().strip("\"'")
    if not text:
        return row.default
    try:
        return row.parse(text)
    except ValueError as possible:
        if (name, text) not in _warned:
            _warned.add((name, text))
            log.warning("%s=%s cannot be used (possible here: %s); %s is taken instead", name, text, possible, row.default)
        return row.default


def cache_folder() -> Path:
    """Made on first use."""
    folder = Path(get("VKBACKEND_CACHE") or Path.home() / ".cache" / "vkbackend").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_whole(path: Path, data: bytes) -> None:
    """A file of the cache, whole or not at all. Where it cannot be written, that is logged: a cache is to be done without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        try:
            os.replace(file.name, path)
        except OSError:
            os.unlink(file.name)
            raise
    except OSError as error:
        log.warning("%s cannot be written (%s); it will be made again next time", path, error.strerror or error)


def models_folder() -> Path:
    return Path(get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models").expanduser()
