"""How files come into the store whole: written to a folder beside it, synced, then moved; and the lock between processes.

In: folders of the store. Out: files to write to, moves that outlast a loss of power. Whoever writes a file holds a lock on it, so that what
a crash left behind is known from what is still being written.
"""

import errno
import fcntl
import logging
import os
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .stored_model import StoreError

log = logging.getLogger(__name__)

PREFIX = ".upload-"  # never a valid blob's or model's name
GRACE_SECONDS = 60          # between a file's making and its lock
STALE_SECONDS = 24 * 3600   # after which a file is taken for left behind where the file system knows no locks
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
FULL, CLOSED = (errno.ENOSPC, errno.EDQUOT), (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def changing(root: Path):
    """What the system refuses while the store at `root` is changed becomes a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        advice = ("remove models that nobody needs, or set OLLAMA_MODELS to a folder on another disk" if error.errno in FULL else
                  "let this user write there, or set OLLAMA_MODELS to a folder of its own" if error.errno in CLOSED else
                  "see whether its disk is sound and at hand")
        raise StoreError(f"the models in {root} cannot be changed ({error.strerror or error}): {advice}") from error




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
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # no locks here; then its age counts
            pass
        return Path(path), os.fdopen(descriptor, "wb")

    def clear(self, further: list[Path]) -> None:
        """Remove what nobody is writing any more, here and in the `further` folders."""
        for folder in (self.folder, *further):
            for path in folder.glob(PREFIX + "*"):
                try:
                    if _is_left_behind(path):
                        log.info("%s was left behind unfinished and goes", path)
                        path.unlink()
                except FileNotFoundError:  # finished this moment
                    pass


def _is_left_behind(path: Path) -> bool:
    age = time.time() - path.stat().st_mtime
    if age < GRACE_SECONDS:
        return False
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            return error.errno in NO_LOCKS and age > STALE_SECONDS


class ProcessLock:
    """Held by one thread of one process at a time, and by that thread as often as it likes. A process that ends, however it does, lets go of it."""

    def __init__(self, path: Path):
        self._path, self._threads, self._depth, self._file = path, threading.RLock(), 0, None

    def __enter__(self):
        self._threads.acquire()
        try:
            if self._depth == 0:
                with changing(self._path.parent.parent):
                    self._file = self._locked_file()
            self._depth += 1
        except BaseException:
            self._threads.release()
            raise
        return self

    def _locked_file(self):
        make_folder(self._path.parent)
        file = open(self._path, "ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another program that changes the store (%s)", self._path)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                file.close()
                raise
        return file

    def __exit__(self, *_):
        self._depth -= 1
        if self._depth == 0:
            self._file.close()
        self._threads.release()
