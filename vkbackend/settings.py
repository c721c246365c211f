"""The environment variables of vkbackend, one row each, as shown by `vkbackend serve --help`, and its cache folder.

`get(name)` reads the environment at the time of the call, so that tests and embedding programs can set it. An invalid
value is logged once and counts as unset; quotes around a value are removed, as in Ollama.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import VkbackendError

log = logging.getLogger(__name__)


def _flag(text: str) -> bool:
    """A switch as Ollama reads it: anything but a plain "no" is true."""
    return text not in ("0", "f", "F", "false", "False", "FALSE")


def _level(text: str) -> int:
    """OLLAMA_DEBUG as a level of Go's log/slog: 1 is DEBUG (-4), larger numbers log more, -1 is WARN (4), anything
    else means INFO (0).
    """
    if text in ("1", "t", "T", "true", "True", "TRUE"):
        return -4
    return -4 * int(text) if text.removeprefix("-").isdecimal() else 0


def _count(zero: int, largest: int = 1 << 31) -> Callable[[str], int]:
    """A parser of integers from 0 to `largest`; 0 stands for the default `zero`."""

    def parse(text: str) -> int:
        number = int(text) if text.isdecimal() else -1
        if not 0 <= number <= largest:
            raise ValueError("a whole number, 0 or more" if largest >= 1 << 31 else f"a whole number, 0 to {largest}")
        return number or zero

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    """A parser of words, ignoring case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(" or ".join(words))
        return text.lower()

    return parse


def _list(text: str) -> list[str]:
    return text.split(",")


@dataclass(frozen=True)
class Setting:
    """An environment variable.

    parse: converts the text, which is not empty, to a value; raises ValueError with the possible values
    sentence: its description in the help
    """

    name: str
    default: Any
    parse: Callable[[str], Any]
    sentence: str

    @property
    def shown_default(self) -> str:
        """The default as a user would write it, sizes with their unit."""
        if isinstance(self.default, bool):
            return "1" if self.default else "0"
        if isinstance(self.default, list):
            return ",".join(self.default)
        if self.name.endswith("_BYTES"):
            mib = self.default >> 20
            return f"{mib} MiB" if mib % 1024 else f"{mib // 1024} GiB"
        return str(self.default)


ROWS = [
    Setting("OLLAMA_VULKAN", False, _flag, "1 runs models on a Vulkan device; otherwise they run on the CPU"),
    Setting(
        "GGML_VK_VISIBLE_DEVICES",
        "",
        str,
        "indices of the Vulkan devices that may be used, such as 0,1 (see `vkbackend devices`)",
    ),
    Setting("OLLAMA_SCHED_SPREAD", False, _flag, "1 spreads a model over all devices, even if it fits one"),
    Setting("OLLAMA_GPU_OVERHEAD", 0, _count(0, (1 << 64) - 1), "bytes of each device's memory to keep free"),
    Setting("OLLAMA_LLM_LIBRARY", "", str, "cpu (or anything but vulkan) turns Vulkan off"),
    Setting("OLLAMA_HOST", "127.0.0.1:11434", str, "address the server listens on"),
    Setting("OLLAMA_ORIGINS", "", str, "additional origins that browsers may call from, comma-separated"),
    Setting("OLLAMA_MODELS", "", str, "folder of the model store (default ~/.ollama/models)"),
    Setting("OLLAMA_NOPRUNE", False, _flag, "1 keeps blobs that no model uses any more after a model is created again"),
    Setting("OLLAMA_KEEP_ALIVE", "5m", str, "how long a model stays loaded after its last request; negative: forever"),
    Setting("OLLAMA_LOAD_TIMEOUT", "5m", str, "how long a model may take to load; 0 or negative: forever"),
    Setting(
        "OLLAMA_MAX_LOADED_MODELS",
        0,
        _count(0),
        "models in memory at the same time; 0: three for each device, three on the CPU",
    ),
    Setting(
        "OLLAMA_CONTEXT_LENGTH", 4096, _count(4096), "context length if neither the request nor the model sets one"
    ),
    Setting("OLLAMA_NUM_PARALLEL", 1, _count(1, 1024), "sequences that one model decodes together"),
    Setting(
        "OLLAMA_MAX_QUEUE", 512, _count(0), "requests that may wait for a model; others are rejected with status 503"
    ),
    Setting(
        "OLLAMA_KV_CACHE_TYPE",
        "f16",
        _one_of("f16", "f32", "q8_0"),
        "element type of the KV cache: f16, f32 or q8_0 (half of f16's memory)",
    ),
    Setting(
        "VKBACKEND_FULL_WINDOWS",
        False,
        _flag,
        "1 keeps the whole context of layers that see only a window of it: more memory, but any prompt continues "
        "wherever an earlier one began the same way",
    ),
    Setting(
        "OLLAMA_FLASH_ATTENTION",
        True,
        _flag,
        "accepted, but has no effect; attention never stores a whole matrix of scores",
    ),
    Setting(
        "OLLAMA_MULTIUSER_CACHE",
        False,
        _flag,
        "accepted, but has no effect; prompts with the same beginning share the cache, whoever sends them",
    ),
    Setting("OLLAMA_NEW_ENGINE", False, _flag, "accepted, but has no effect; there is only one engine"),
    Setting(
        "OLLAMA_REMOTES", ["ollama.com"], _list, "accepted, but has no effect; models on other hosts are not supported"
    ),
    Setting("OLLAMA_DEBUG", 0, _level, "1 logs more, -1 warnings only"),
    Setting(
        "VKBACKEND_LOG_FORMAT",
        "text",
        _one_of("text", "json"),
        "json writes the server's log as JSON objects, one per line",
    ),
    Setting(
        "VKBACKEND_DRAIN_SECONDS",
        5,
        _count(0),
        "seconds that running requests get to finish when the server stops (a second signal stops it at once)",
    ),
    Setting(
        "VKBACKEND_LOCK_TIMEOUT",
        10,
        _count(0, 86400),
        "seconds that a change to the models waits for another program's change before it fails with status 503",
    ),
    Setting(
        "VKBACKEND_HEADER_SECONDS", 30, _count(30), "seconds that a client may take to send the headers of a request"
    ),
    Setting(
        "VKBACKEND_UNREAD_SECONDS",
        600,
        _count(600),
        "seconds that a client may leave its answer unread, during which its generation pauses",
    ),
    Setting(
        "VKBACKEND_BODY_SECONDS",
        60,
        _count(60),
        "seconds without data after which a request's body is given up; slow bodies are fine",
    ),
    Setting(
        "VKBACKEND_MAX_BODY_BYTES",
        256 << 20,
        _count(256 << 20, 1 << 40),
        "size limit of a request's body; blobs are streamed without a limit",
    ),
    Setting(
        "VKBACKEND_MAX_BODIES_BYTES",
        1 << 30,
        _count(1 << 30, 1 << 40),
        "size limit of all bodies that are received or parsed at the same time; blobs do not count",
    ),
    Setting("VKBACKEND_MAX_IMAGES", 64, _count(0), "number of images that a request may hold"),
    Setting("OLLAMA_NOHISTORY", False, _flag, "1 keeps no history of what is typed into `vkbackend run`"),
    Setting(
        "VKBACKEND_PREFILL",
        "float32",
        _one_of("float32", "float16", "int8"),
        "precision of matrix products in steps with only prompts: float32, or, if the device supports it, float16 or "
        "int8 (faster on some GPUs; int8 rounds as llama.cpp does)",
    ),
    Setting(
        "VKBACKEND_CPU",
        "ggml",
        _one_of("ggml", "exact"),
        "what computes on the CPU: ggml, if it is installed, which rounds activations to 8 bits for quantized weights, "
        "or exact: numpy in float32, slower and with several times the memory",
    ),
    Setting(
        "VKBACKEND_DETERMINISTIC",
        False,
        _flag,
        "1 computes prompts in the order and precision of decoding, whatever VKBACKEND_PREFILL says",
    ),
    Setting(
        "VKBACKEND_AUTOTUNE",
        True,
        _flag,
        "0 does not measure kernels, which else happens before a step of one size runs for the second time; earlier "
        "measurements are still used",
    ),
    Setting(
        "VKBACKEND_REGISTRY_URLS",
        "",
        str,
        "other base URLs for registries, such as hf.co=http://127.0.0.1:5000, comma-separated: mirrors, test servers",
    ),
    Setting(
        "VKBACKEND_CACHE",
        "",
        str,
        "folder of caches: SPIR-V, pipelines, measured kernels, wheels, starter models (default ~/.cache/vkbackend)",
    ),
    Setting(
        "VKBACKEND_FORCE_DISCRETE",
        False,
        _flag,
        "1 treats every device as a GPU with dedicated memory (to test what GPUs get)",
    ),
]
_BY_NAME = {row.name: row for row in ROWS}
CHECKED = b"vkbackend cache 1\n"  # prefix of files with a digest
_warned: set[tuple[str, str]] = set()  # (name, text) of invalid settings, ("", path) of caches


def text(name: str) -> str:
    """A variable as the user wrote it, without surrounding white space and quotes; empty if it is unset."""
    return os.environ.get(_BY_NAME[name].name, "").strip().strip("\"'")


def get(name: str) -> Any:
    """The parsed value of a variable, or its default if it is unset, empty or invalid, which is logged once."""
    row = _BY_NAME[name]
    written = text(name)
    if not written:
        return row.default
    try:
        return row.parse(written)
    except ValueError as possible:
        if (name, written) not in _warned:
            _warned.add((name, written))
            log.warning("ignoring invalid %s=%s (expected %s); using %s", name, written, possible, row.shown_default)
        return row.default


def home_folder() -> Path:
    """The user's home folder. Raises VkbackendError if there is none."""
    try:
        return Path.home()
    except RuntimeError:
        raise VkbackendError(
            "$HOME is not defined, and this user has no home folder; set HOME, or OLLAMA_MODELS and VKBACKEND_CACHE"
        ) from None


def expanded(text: str) -> Path:
    """A path with ~ and ~user expanded. Raises VkbackendError for an unknown user."""
    user = text[1:].partition("/")[0]
    try:
        return Path(text).expanduser() if user or not text.startswith("~") else home_folder() / text[1:].lstrip("/")
    except RuntimeError:
        raise VkbackendError(f"failed to find user '{user}': user: unknown user {user}") from None


def cache_folder() -> Path:
    """The cache folder, made on first use. If that fails, which is logged once, a temporary folder of this process."""
    try:
        folder = expanded(get("VKBACKEND_CACHE")) if get("VKBACKEND_CACHE") else home_folder() / ".cache" / "vkbackend"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    except (OSError, VkbackendError) as error:
        _warn_once(
            "cache",
            "the cache folder cannot be used (%s), so nothing is kept for the next start; set VKBACKEND_CACHE to a "
            "writable folder",
            error,
        )
        return Path(_temporary_cache().name)


@lru_cache(maxsize=1)
def _temporary_cache() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="vkbackend-")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of the cache atomically. A failure is only logged, once per folder: a cache is optional."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.replace(file.name, path)
            except OSError:
                os.unlink(file.name)
                raise
    except OSError as error:
        _warn_once(
            str(path.parent),
            "cannot write %s (%s); it will be computed again next time",
            path,
            error.strerror or error,
        )


def read_cached(path: Path) -> bytes | None:
    """Read a file of the cache. None if there is none, or if it cannot be read, which is logged once."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        if not isinstance(error, NotADirectoryError):  # a missing folder, which `write_whole` will log
            _warn_once(str(path), "cannot read %s (%s); computing it again", path, error.strerror or error)
        return None


def write_checked(path: Path, data: bytes) -> None:
    """Like `write_whole`, with a digest, for data that must not be used if it is damaged."""
    write_whole(path, CHECKED + hashlib.sha256(data).digest() + data)


def read_checked(path: Path) -> bytes | None:
    """Read what `write_checked` wrote. None if it is missing, or if it is damaged, which is logged once."""
    found = read_cached(path)
    if found is None:
        return None
    start = len(CHECKED) + hashlib.sha256().digest_size
    data = found[start:]
    if found[:start] == CHECKED + hashlib.sha256(data).digest():
        return data
    warn_of_damage(path)
    return None


def warn_of_damage(path: Path) -> None:
    """Log, once, that a file of the cache is damaged."""
    _warn_once(str(path), "%s is damaged or was written by another version; computing it again", path)


def _warn_once(about: str, message: str, *arguments: object) -> None:
    if ("", about) not in _warned:
        _warned.add(("", about))
        log.warning(message, *arguments)


def models_folder() -> Path:
    """The folder of the model store. A ~ in OLLAMA_MODELS is not expanded: that is the shell's task."""
    return Path(get("OLLAMA_MODELS") or home_folder() / ".ollama" / "models")


def log_level() -> int:
    """OLLAMA_DEBUG as a level of Python's logging: INFO is 20, and a step of 4 in Go is a step of 10."""
    return max(1, 20 + get("OLLAMA_DEBUG") * 10 // 4)
