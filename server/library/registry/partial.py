"""A partly downloaded blob: its file and, next to it, the progress of each part.

    ROOT/.vkbackend/pulls/sha256-HEX        as large as the blob, with holes
    ROOT/.vkbackend/pulls/sha256-HEX.json   {"size", "parts": [[offset, size, completed], ...]}

One process at a time writes to it: the file is locked, and the system releases the lock when the process ends. The
state never claims bytes that were not written, but may lag behind by SAVE_SECONDS. Damage from a loss of power is found
by the final digest check.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...go.human import human_bytes
from ..model import DigestMismatch, parse_json, read_plain
from ..staging import make_folder, sync_folder, try_lock
from ..store import Store
from .errors import RegistryError

log = logging.getLogger(__name__)

FOLDER = "pulls"
SAVE_SECONDS = 0.5
STALE_SECONDS = 14 * 24 * 3600  # age at which an abandoned pull is removed
MAX_STATE_BYTES = 4 << 20
HASH_PIECE_BYTES = 4 << 20


@dataclass
class BlobPart:
    """A range of the blob, in bytes. size None: up to the end of the response."""

    offset: int
    size: int | None
    completed: int = 0

    @property
    def is_done(self) -> bool:
        """Whether all bytes are there."""
        return self.completed == self.size


class Partial:
    """An open and locked partial blob, until `close`, `drop` or `finish`. size: in bytes, 0 if not known."""

    def __init__(self, path: Path, descriptor: int, size: int, part_bytes: int):
        self.path = path
        self.size = size
        self._descriptor = descriptor
        self.parts = self._known_parts() or self._fresh_parts(part_bytes)
        self._saved_at = 0.0

    # --- parts

    def _fresh_parts(self, part_bytes: int) -> list[BlobPart]:
        os.ftruncate(self._descriptor, 0)
        os.ftruncate(self._descriptor, self.size)
        if not self.size:
            return [BlobPart(0, None)]
        return [BlobPart(offset, min(part_bytes, self.size - offset)) for offset in range(0, self.size, part_bytes)]

    def _known_parts(self) -> list[BlobPart]:
        """Parts in the state file; empty if it does not match the file."""
        state = read_state(self.path)
        if not self.size or not state or state["size"] != self.size or os.fstat(self._descriptor).st_size != self.size:
            return []
        end = 0
        for offset, size, completed in state["parts"]:
            if offset != end or not 0 <= completed <= size:
                return []
            end += size
        return [BlobPart(*numbers) for numbers in state["parts"]] if end == self.size else []

    def become_one_part(self) -> BlobPart:
        """Start over as a single part, for a registry that does not support ranges."""
        self.parts = [BlobPart(0, self.size or None)]
        self.save()
        return self.parts[0]

    @property
    def completed(self) -> int:
        """Bytes present."""
        return sum(part.completed for part in self.parts)

    @property
    def is_fetched(self) -> bool:
        """Whether all bytes are present."""
        return all(part.is_done for part in self.parts)

    def write(self, part: BlobPart, piece: bytes) -> None:
        """Append `piece` to a part. Raises RegistryError."""
        try:
            view = memoryview(piece)
            while view:
                written = os.pwrite(self._descriptor, view, part.offset + part.completed)
                view = view[written:]
                part.completed += written
        except OSError as error:
            reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            raise RegistryError(
                f"cannot write {self.path} ({reason}); the downloaded parts are kept: free some space and pull again"
            ) from None
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the state file, if possible; on a full disk it may lag behind."""
        self._saved_at = time.monotonic()
        if self.size:
            state = {"size": self.size, "parts": [[part.offset, part.size, part.completed] for part in self.parts]}
            temporary = self.path.with_suffix(".new")
            try:
                temporary.write_text(json.dumps(state))
                os.replace(temporary, _state_path(self.path))
            except OSError as error:
                log.warning("cannot write %s (%s)", temporary, error.strerror)

    # --- its end

    def finish(self, digest: str, target: Path) -> None:
        """Move the contents to `target` if they match `digest`; otherwise drop them and raise DigestMismatch."""
        found = self._digest()
        if found != digest:
            self.drop()
            raise DigestMismatch(digest, found)
        os.fchmod(self._descriptor, 0o644)
        os.fsync(self._descriptor)
        os.replace(self.path, target)
        sync_folder(target.parent)
        _state_path(self.path).unlink(missing_ok=True)
        self.close()

    def _digest(self) -> str:
        sha = hashlib.sha256()
        offset = 0
        while piece := os.pread(self._descriptor, HASH_PIECE_BYTES, offset):
            sha.update(piece)
            offset += len(piece)
        return f"sha256:{sha.hexdigest()}"

    def drop(self) -> None:
        """Remove the files."""
        self.path.unlink(missing_ok=True)
        _state_path(self.path).unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Release the lock, keeping the files."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def folder_of(store: Store) -> Path:
    """Folder of a store's partial blobs, on the file system of its blobs: finished ones are moved, not copied."""
    own = make_folder(store.staging.folder)
    return own / FOLDER if own.stat().st_dev == store.blobs.stat().st_dev else store.blobs / f".{FOLDER}"


def open_partial(folder: Path, digest: str, size: int, part_bytes: int) -> Partial | None:
    """The partial blob of `digest`, existing or new; None if another process has it open."""
    path = partial_path(make_folder(folder), digest)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if try_lock(descriptor) is False:  # None: without locks, the digest check finds concurrent writes
                os.close(descriptor)
                return None
            if _is_same_file(descriptor, path):  # otherwise it was finished or dropped in the meantime
                return Partial(path, descriptor, size, part_bytes)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def partial_path(folder: Path, digest: str) -> Path:
    """File of a partial blob."""
    return folder / digest.replace(":", "-")


def read_state(path: Path) -> dict[str, Any] | None:
    """Contents of the state file of a partial blob; None if it cannot be read or is invalid."""
    try:
        state = parse_json(read_plain(_state_path(path), MAX_STATE_BYTES)[0])
        numbers = [state["size"], *(number for part in state["parts"] for number in part)]
        is_valid = all(len(part) == 3 for part in state["parts"]) and all(isinstance(each, int) for each in numbers)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if is_valid else None


def num_present(folder: Path, digest: str) -> int:
    """Bytes present from an earlier pull or one in another process."""
    state = read_state(partial_path(folder, digest))
    return sum(completed for _, _, completed in state["parts"]) if state else 0


def remove_stale(folder: Path) -> None:
    """Remove partial blobs unchanged for STALE_SECONDS."""
    for path in folder.glob("sha256-*"):
        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        except FileNotFoundError:  # finished or removed in the meantime
            pass


def check_room(blobs: Path, missing: int) -> None:
    """Raise RegistryError if `missing` bytes do not fit on the disk of `blobs`."""
    free = free_bytes(blobs)
    if missing > free:
        raise RegistryError(
            f"{human_bytes(missing)} remain to be downloaded, but only {human_bytes(free)} are free in {blobs}; "
            "free some space, or set OLLAMA_MODELS to a folder on another disk"
        )


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder."""
    return shutil.disk_usage(folder).free


def _state_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
