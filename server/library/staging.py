"""How files come into the store whole: written to a folder beside it, synced, then moved; and the lock between
processes.

In: folders of the store. Out: files to write to, moves that outlast a loss of power. Whoever writes a file holds a
lock on it, so that what a crash left behind is known from what is still being written.
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

from filelock import lock_descriptor

from vkbackend import settings

from .model import StoreBusy, StoreError

log = logging.getLogger(__name__)

PREFIX = ".upload-"  # never a valid blob's or model's name
GRACE_SECONDS = 60  # between a file's making and its lock
STALE_SECONDS = 24 * 3600  # after which a file is taken for left behind where the file system knows no locks
LOCK_POLL_SECONDS = 0.02  # between two tries for a lock that is held
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
FULL, CLOSED = (errno.ENOSPC, errno.EDQUOT), (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def changing(root: Path):
    """What the system refuses while the store at `root` is changed becomes a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        advice = (
            "remove models that nobody needs, or set OLLAMA_MODELS to a folder on another disk"
            if error.errno in FULL
            else "let this user write there, or set OLLAMA_MODELS to a folder of its own"
            if error.errno in CLOSED
            else "see whether its disk is sound and at hand"
        )
        raise StoreError(f"the models in {root} cannot be changed ({error.strerror or error}): {advice}") from error


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file against every other descriptor, of this process and of others, until it is closed.

    -> whether it is locked now; None where the file system knows no locks. Raises OSError.
    """
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise


def make_folder(folder: Path) -> Path:
    """Made with its parents where it is not there, so that it outlasts a loss of power."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
    return folder


def sync_folder(folder: Path) -> None:
    """Write the folder's entries to disk: without it a file that was moved there may be gone after a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that have no such thing
            raise
    finally:
        os.close(descriptor)


def place(path: Path, target: Path) -> None:
    """Let `target` be the file at `path`, which keeps its own name where the file system has hard links."""
    link = path.with_name(path.name + ".link")
    try:
        os.link(path, link)
    except FileNotFoundError:
        raise
    except OSError:
        link = path
    os.replace(link, target)
    if link != path:
        link.unlink(missing_ok=True)  # still there where both were one file already
    sync_folder(target.parent)


class Staging:
    """Files that are being written, in `folder`, or beside their place where that is on another file system."""

    def __init__(self, folder: Path):
        self.folder = folder

    def new_file(self, target_folder: Path) -> tuple[Path, BinaryIO]:
        """-> (path, file open for writing), to be moved into `target_folder`."""
        folder = make_folder(self.folder)
        if folder.stat().st_dev != target_folder.stat().st_dev:
            folder = target_folder
        descriptor, path = tempfile.mkstemp(prefix=PREFIX, dir=folder)
        try:
            try_lock(descriptor)  # where there are no locks its age counts
        except OSError:
            pass
        return Path(path), os.fdopen(descriptor, "wb")

    def clear(self, further: list[Path]) -> None:
        """Remove what nobody is writing any more, here and in the `further` folders."""
        for folder in (self.folder, *further):
            for path in folder.glob(PREFIX + "*"):
                try:
                    if _is_left_behind(path):
                        log.info("removing unfinished upload %s", path)
                        path.unlink()
                except FileNotFoundError:  # finished this moment
                    pass


def _is_left_behind(path: Path) -> bool:
    age = time.time() - path.lstat().st_mtime
    if age < GRACE_SECONDS or not path.is_file():
        return False
    with open(path, "rb") as file:
        is_free = try_lock(file.fileno())
    return age > STALE_SECONDS if is_free is None else is_free


class ProcessLock:
    """Held by one thread of one process at a time, and by that thread as often as it likes. It ends with its process,
    however that ends.

    A thread waits for VKBACKEND_LOCK_TIMEOUT seconds at most; then entering raises StoreBusy, which names the holder
    where the system tells.
    """

    def __init__(self, path: Path):
        self._path, self._threads, self._depth, self._file = path, threading.RLock(), 0, None

    def __enter__(self) -> "ProcessLock":
        self._acquire(lock_deadline())
        return self

    @contextmanager
    def by(self, deadline: float) -> Iterator[None]:
        """The same for a thread whose wait began before: up to `deadline`, a time of `lock_deadline`."""
        self._acquire(deadline)
        try:
            yield
        finally:
            self.__exit__()

    def _acquire(self, deadline: float) -> None:
        if not self._threads.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise self._busy()  # one of our threads has the lock, or waits for it, too
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
        # Opening never waits, whatever stands in its place.
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

    def __exit__(self, *_) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._file.close()
        self._threads.release()


def lock_deadline() -> float:
    """Until when (time.monotonic) a change that begins to wait now waits for the lock."""
    return time.monotonic() + settings.get("VKBACKEND_LOCK_TIMEOUT")


def _holder(path: Path) -> str:
    """What holds the lock on a file, as far as the system tells."""
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
