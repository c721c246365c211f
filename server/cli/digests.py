"""Caches SHA-256 digests of files, so a model file of gigabytes is read once and not at every start.

A digest is valid while the file's size and modification time are unchanged. They are stored in `digests.json` in the
cache folder.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from vkbackend import settings
from vkbackend.errors import VkbackendError

PIECE_BYTES = 4 << 20


def file_digest(path: Path, progress: Callable[[int], None] = lambda done: None) -> str:
    """Return "sha256:HEX". progress: called with the bytes read so far if the file must be read."""
    path = path.resolve()
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    known = _read().get(str(path))
    if known and known[:2] == stamp:
        return known[2]
    digest = _compute(path, progress)
    _remember(str(path), [*stamp, digest])
    return digest


def _compute(path: Path, progress: Callable[[int], None]) -> str:
    sha, done = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            sha.update(piece)
            done += len(piece)
            progress(done)
    return f"sha256:{sha.hexdigest()}"


def _cache_path() -> Path:
    return settings.cache_folder() / "digests.json"


def _read() -> dict:
    """Read the cache; a damaged file counts as empty."""
    try:
        entries = json.loads(_cache_path().read_text())
        return {path: entry for path, entry in entries.items() if len(entry) == 3}
    except (OSError, VkbackendError, ValueError, AttributeError, TypeError):
        return {}


def _remember(path: str, entry: list) -> None:
    """Add an entry. If the cache cannot be written, the file is read again next time."""
    entries = {known: value for known, value in _read().items() if os.path.exists(known)}
    try:
        settings.write_whole(_cache_path(), json.dumps(entries | {path: entry}, indent=1).encode())
    except (OSError, VkbackendError):
        pass
