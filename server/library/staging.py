"""Atomic changes of the store: files are written elsewhere, synced and then moved; and the lock between processes.

In: folders of the store. Out: files to write to, moves that survive a loss of power. A file is locked while it is
written, which tells it from one that a crash left behind.
"""

import errno
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vkbackend import settings

from .model import StoreBusy, StoreError

log = logging.getLogger(__name__)

PREFIX = ".upload-"  # never the start of a blob's or model's name
GRACE_SECONDS = 60  # for locking a file after its creation
STALE_SECONDS = 24 * 3600  # age of an abandoned file, if the file system has no locks
LOCK_POLL_SECONDS = 0.02
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_PERMISSION = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def changing(root: Path) -> Iterator[None]:
    """Context in which the store at `root` is changed: OSErrors become StoreErrors that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            advice = "remove models you do not need, or set OLLAMA_MODELS to a folder on another disk"
        elif error.errno in NO_PERMISSION:
            advice = "give this user write access, or set OLLAMA_MODELS to another folder"
        else:
            advice = "check that its disk is mounted and working"
        raise StoreError(f"the models in {root} cannot be changed ({error.strerror or error}): {advice}") from error


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file against every other descriptor, in this process and in others, until it is closed.

    Returns whether that succeeded; None if the file system has no locks. Raises OSError.
    """
    from filelock import lock_descriptor  # 10 ms that commands which only read need not pay

    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise


def make_folder(folder: Path) -> Path:
    """Create a folder and its parents, durably, unless they exist."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
    return folder


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk: otherwise a file moved there may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not supported by the file system
            raise
    finally:
        os.close(descriptor)


def place(path: Path, target: Path) -> None:
    """Make `target` the file at `path`, which also keeps its own name if the file system has hard links."""
    link = path.with_name(path.name + ".link")
    try:
        os.link(path, link)
    except FileNotFoundError:
        raise
    except OSError:
        link = path
    os.replace(link, target)
    if link != path:
        link.unlink(missing_ok=True)  # os.replace leaves it if both are the same file
    sync_folder(target.parent)


class Staging:
    """Files being written: in `folder`, or in their target folder if that is on another file system."""

    def __init__(self, folder: Path):
        self.folder = folder

    def new_file(self, target_folder: Path) -> tuple[Path, BinaryIO]:
        """(path, file open for writing) of a new file to be moved into `target_folder`."""
        folder = make_folder(self.folder)
        if folder.stat().st_dev != target_folder.stat().st_dev:
            folder = target_folder
        descriptor, path = tempfile.mkstemp(prefix=PREFIX, dir=folder)
        try:
            try_lock(descriptor)
        except OSError:  # without a lock, only its age tells whether it is abandoned
            pass
        return Path(path), os.fdopen(descriptor, "wb")

    def clear(self, further: list[Path]) -> None:
        """Remove abandoned files, in the own folder and in `further` ones."""
        for folder in (self.folder, *further):
            for path in folder.glob(PREFIX + "*"):
                try:
                    if _is_abandoned(path):
                        log.info("removing abandoned temporary file %s", path)
                        path.unlink()
                except FileNotFoundError:  # finished in the meantime
                    pass


def _is_abandoned(path: Path) -> bool:
    age = time.time() - path.lstat().st_mtime
    if age < GRACE_SECONDS or not path.is_file():
        return False
    with open(path, "rb") as file:
        is_free = try_lock(file.fileno())
    return age > STALE_SECONDS if is_free is None else is_free


class ProcessLock:
    """A re-entrant lock between threads and processes. The system releases it when its process ends.

    Entering waits for up to VKBACKEND_LOCK_TIMEOUT seconds, then raises StoreBusy, which names the holder if the system
    tells.
    """

    def __init__(self, path: Path):
        self._path = path
        self._threads = threading.RLock()
        self._depth = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> "ProcessLock":
        self._acquire(lock_deadline())
        return self

    @contextmanager
    def by(self, deadline: float) -> Iterator[None]:
        """Like entering, but waits until `deadline`, a time from `lock_deadline`."""
        self._acquire(deadline)
        try:
            yield
        finally:
            self.__exit__()

    def _acquire(self, deadline: float) -> None:
        if not self._threads.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise self._busy()  # held by another thread of this process, or awaited by one
        try:
            if self._depth == 0:
                with changing(self._path.parent.parent):
                    self._file = self._locked_file(deadline)
            self._depth += 1
        except BaseException:
            self._threads.release()
            raise

    def _locked_file(self, deadline: float) -> BinaryIO:
        make_folder(self._path.parent)
        # O_NONBLOCK: opening must not wait even if something else, such as a pipe, is in its place.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        file = open(descriptor, "r+b", buffering=0)
        try:
            if try_lock(file.fileno()) is False:
                log.info("waiting for %s, which holds %s", _holder(self._path), self._path)
                while try_lock(file.fileno()) is False:
                    if time.monotonic() > deadline:
                        raise self._busy()
                    time.sleep(LOCK_POLL_SECONDS)
        except BaseException:
            file.close()
            raise
        return file

    def _busy(self) -> StoreBusy:
        seconds = settings.get("VKBACKEND_LOCK_TIMEOUT")
        holder = _holder(self._path)
        root = self._path.parent.parent
        return StoreBusy(
            f"the models in {root} are being changed by {holder}, which has held {self._path} for more than "
            f"{seconds} s; try again later (VKBACKEND_LOCK_TIMEOUT sets how long to wait)"
        )

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._file is not None:
            self._file.close()
            self._file = None
        self._threads.release()


def lock_deadline() -> float:
    """When a change that starts waiting now gives up waiting for the lock, in time.monotonic() seconds."""
    return time.monotonic() + settings.get("VKBACKEND_LOCK_TIMEOUT")


def _holder(path: Path) -> str:
    """Description of the process that holds the lock on a file, as far as the system tells."""
    try:
        status = path.stat()
        inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: FLOCK ADVISORY WRITE 4711 08:01:1234 0 EOF; waiters have an arrow before FLOCK.
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == inode and int(fields[4]) > 0:
                command = Path("/proc", fields[4], "comm").read_text().strip()
                return "another request" if int(fields[4]) == os.getpid() else f"process {fields[4]} ({command})"
    except (OSError, ValueError):
        pass
    return "another program"
