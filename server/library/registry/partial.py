"""A blob that is not whole yet: its file and, beside it, how much of each part is there.

    ROOT/.vkbackend/pulls/sha256-HEX        as long as the blob will be, with holes
    ROOT/.vkbackend/pulls/sha256-HEX.json   {"size", "parts": [[offset, size, completed], ...]}

One process at a time writes to it: the file is locked, and a lock goes with its process, however that ends. The
state never claims bytes that were not written; it may lag behind by SAVE_SECONDS. What a power cut makes of the bytes,
the digest tells in the end.
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

from ...go.human import human_bytes
from ..model import DigestMismatch, parse_json, read_plain
from ..staging import make_folder, sync_folder, try_lock
from ..store import Store
from .errors import RegistryError

log = logging.getLogger(__name__)

FOLDER = "pulls"
SAVE_SECONDS = 0.5
STALE_SECONDS = 14 * 24 * 3600  # a pull that nobody has gone on with
LARGEST_STATE_BYTES = 4 << 20
HASH_PIECE_BYTES = 4 << 20


@dataclass
class Part:
    """size None: until the answer ends."""

    offset: int
    size: int | None
    completed: int = 0

    @property
    def is_done(self) -> bool:
        return self.completed == self.size


class Partial:
    """Belongs to whoever opened it, until `close` or `finish`. size 0: not known."""

    def __init__(self, path: Path, descriptor: int, size: int, part_bytes: int):
        self.path, self._descriptor, self.size = path, descriptor, size
        self.parts = self._known_parts() or self._fresh_parts(part_bytes)
        self._saved_at = 0.0

    # --- parts

    def _fresh_parts(self, part_bytes: int) -> list[Part]:
        os.ftruncate(self._descriptor, 0)
        os.ftruncate(self._descriptor, self.size)
        if not self.size:
            return [Part(0, None)]
        return [Part(offset, min(part_bytes, self.size - offset)) for offset in range(0, self.size, part_bytes)]

    def _known_parts(self) -> list[Part]:
        """What the state file says, where it fits the file; else none."""
        state = read_state(self.path)
        if not self.size or not state or state["size"] != self.size or os.fstat(self._descriptor).st_size != self.size:
            return []
        parts = [Part(*numbers) for numbers in state["parts"]]
        ends = [0, *(part.offset + part.size for part in parts)]
        fits = ends[-1] == self.size and all(
            part.offset == end and 0 <= part.completed <= part.size for part, end in zip(parts, ends)
        )
        return parts if fits else []

    def become_one_part(self) -> Part:
        """Everything anew, from the first byte to the last: the registry knows no ranges."""
        self.parts = [Part(0, self.size or None)]
        self.save()
        return self.parts[0]

    @property
    def completed(self) -> int:
        return sum(part.completed for part in self.parts)

    @property
    def is_fetched(self) -> bool:
        return all(part.is_done for part in self.parts)

    def write(self, part: Part, piece: bytes) -> None:
        try:
            view = memoryview(piece)
            while view:
                written = os.pwrite(self._descriptor, view, part.offset + part.completed)
                view = view[written:]
                part.completed += written
        except OSError as error:
            reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            raise RegistryError(
                f"{self.path} cannot be written ({reason}); what is there is kept: pull again once there is room"
            ) from None
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Best effort: a full disk may leave no room for it, and then it lags behind."""
        self._saved_at = time.monotonic()
        if self.size:
            state = {"size": self.size, "parts": [[part.offset, part.size, part.completed] for part in self.parts]}
            temporary = self.path.with_suffix(".new")
            try:
                temporary.write_text(json.dumps(state))
                os.replace(temporary, _state_path(self.path))
            except OSError as error:
                log.warning("%s cannot be written (%s)", temporary, error.strerror)

    # --- its end

    def finish(self, digest: str, target: Path) -> None:
        """Move the contents to their place, if they are what `digest` says. Raises DigestMismatch, after which
        nothing is left of them.
        """
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
        sha, offset = hashlib.sha256(), 0
        while piece := os.pread(self._descriptor, HASH_PIECE_BYTES, offset):
            sha.update(piece)
            offset += len(piece)
        return f"sha256:{sha.hexdigest()}"

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        _state_path(self.path).unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Keeps what is there; its lock is given up."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def folder_of(store: Store) -> Path:
    """Where a store's partial files are: on the file system of its blobs, so that a finished one is moved at no
    cost.
    """
    own = make_folder(store.staging.folder)
    return own / FOLDER if own.stat().st_dev == store.blobs.stat().st_dev else store.blobs / f".{FOLDER}"


def open_partial(folder: Path, digest: str, size: int, part_bytes: int) -> Partial | None:
    """The contents of `digest` as far as they are here; None while another process is at them."""
    path = partial_path(make_folder(folder), digest)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if try_lock(descriptor) is False:  # where there are no locks, the digest tells of two that wrote at once
                os.close(descriptor)
                return None
            if _is_same_file(descriptor, path):  # else it was finished or dropped a moment ago
                return Partial(path, descriptor, size, part_bytes)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def partial_path(folder: Path, digest: str) -> Path:
    return folder / digest.replace(":", "-")


def read_state(path: Path) -> dict | None:
    """What the state file of a partial file says, if it can be read."""
    try:
        state = parse_json(read_plain(_state_path(path), LARGEST_STATE_BYTES)[0])
        return (
            state
            if all(isinstance(number, int) for part in state["parts"] for number in [state["size"], *part])
            and _has_triples(state)
            else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _has_triples(state: dict) -> bool:
    return all(len(part) == 3 for part in state["parts"])


def num_present(folder: Path, digest: str) -> int:
    """Bytes that a pull begun earlier, or in another process, has brought."""
    state = read_state(partial_path(folder, digest))
    return sum(completed for _, _, completed in state["parts"]) if state else 0


def remove_stale(folder: Path) -> None:
    """Parts that nobody has gone on with for STALE_SECONDS."""
    for path in folder.glob("sha256-*"):
        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        except FileNotFoundError:  # gone on with, or removed, this moment
            pass


def check_room(blobs: Path, missing: int) -> None:
    """Raises RegistryError where so many bytes, which are still to come, do not fit."""
    free = free_bytes(blobs)
    if missing > free:
        raise RegistryError(
            f"{human_bytes(missing)} are still to come, but only {human_bytes(free)} are free in {blobs}; "
            "make room, or set OLLAMA_MODELS to a folder on another disk"
        )


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _state_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
