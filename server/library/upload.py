"""Contents on their way into the store: written to a temporary file, hashed, then moved to the place of their digest.

In: bytes. Out: a file `ROOT/blobs/sha256-HEX`. Raises StoreError, with advice, where the system refuses a change.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import BinaryIO, Concatenate, ParamSpec, Protocol, TypeVar

from ..go.human import human_bytes
from . import staging
from .model import DigestMismatch, InvalidDigest, StoreError

DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


class _HasRoot(Protocol):
    root: Path


P = ParamSpec("P")
R = TypeVar("R")
Owner = TypeVar("Owner", bound=_HasRoot)


def changes(method: Callable[Concatenate[Owner, P], R]) -> Callable[Concatenate[Owner, P], R]:
    """Decorate a method that changes the store at `self.root`: OSErrors become StoreErrors that say what to do."""

    @wraps(method)
    def changing(self: Owner, /, *arguments: P.args, **named: P.kwargs) -> R:
        with staging.changing(self.root):
            return method(self, *arguments, **named)

    return changing


def normal_digest(text: str) -> str:
    """`sha256:hex` for `sha256-HEX` and `sha256:HEX`. Raises InvalidDigest for other texts: they never become paths."""
    match = DIGEST.fullmatch(text)
    if match is None:
        raise InvalidDigest()
    return f"sha256:{match[1].lower()}"


def blob_path(root: Path, digest: str) -> Path:
    """Path of a digest's contents, whether they exist or not. Raises InvalidDigest."""
    return root / "blobs" / normal_digest(digest).replace(":", "-")


class Upload:
    """`write` pieces, then `finish`. A context manager: contents that are not finished at its end are dropped."""

    def __init__(self, root: Path, files: staging.Staging):
        self.root = root
        self.size = 0
        self._staging = files
        self._hash = hashlib.sha256()
        self._path, self._file = self._new_file()

    @changes
    def _new_file(self) -> tuple[Path, BinaryIO]:
        return self._staging.new_file(staging.make_folder(self.root / "blobs"))

    @changes
    def write(self, piece: bytes) -> None:
        """Append `piece`."""
        self._hash.update(piece)
        self._file.write(piece)
        self.size += len(piece)

    def reserve(self, num_bytes: int) -> None:
        """Raise StoreError if the disk has less than `num_bytes` free."""
        free = shutil.disk_usage(self._path.parent).free
        if num_bytes > free:
            raise StoreError(
                f"{self.root} needs {human_bytes(num_bytes)} more; the disk has {human_bytes(free)} free: "
                "remove other models, or set OLLAMA_MODELS to a folder on another disk"
            )

    @changes
    def sync(self) -> None:
        """Flush the contents to disk. Slow, so better done before the store is locked."""
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def path(self) -> Path:
        """File with the contents written so far."""
        self._file.flush()
        return self._path

    @property
    def digest(self) -> str:
        """`sha256:hex` of the contents written so far."""
        return f"sha256:{self._hash.hexdigest()}"

    @changes
    def finish(self, expected: str | None = None) -> str:
        """Move the contents to their place and return their digest.

        Raises DigestMismatch, leaving nothing behind, if the digest is not `expected`. Can be repeated until the
        context ends, in case another program removes the blob.
        """
        if expected is not None and normal_digest(expected) != self.digest:
            raise DigestMismatch(expected, self.digest)
        self.sync()
        os.chmod(self._path, 0o644)
        staging.place(self._path, blob_path(self.root, self.digest))
        return self.digest

    def __enter__(self) -> "Upload":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        except OSError:  # no room for buffered bytes; the writer has seen the error already
            pass
        self._path.unlink(missing_ok=True)
