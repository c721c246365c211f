"""crash_points.py FOLDER GGUF: the same changes to a store again and again, each time with the program ended before
another of its file operations.

Each run is a process of its own (a fork) on a copy of one store; then `check` looks at what it left. Prints how many
points there were.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from store_checks import check_whole

from vkbackend.server.library import create, staging
from vkbackend.server.library import store as store_module
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.store import Store
from vkbackend.server.wire import native

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "tempfile.mkstemp"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MANY = 1000


def make(store, name, **request):
    ask = native.CreateRequest(model=name, **request)
    create.create(store, ask, create.checked_name(ask), lambda *_, **__: None)


def changes(store, path):
    with store.upload() as upload:
        upload.write(path.read_bytes())
        digest = upload.finish()
        make(store, "new", files={"m.gguf": digest}, system="First.")
    make(store, "new", from_="base", system="Second.")
    make(store, "small", from_="base", quantize="q8_0")
    store.copy(parse_name("new"), parse_name("other"))
    store.delete(parse_name("base"))
    store.delete(parse_name("new"))


def die_before(point: int):
    """End this process before its `point`th change to files."""
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event in CHANGES or event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main(folder: str, gguf: str):
    first, path = Store(Path(folder) / "first"), Path(gguf)
    with first.upload() as upload:
        upload.write(path.read_bytes())
        make(first, "base", files={"m.gguf": upload.finish()}, license="MIT")
    os.fsync = lambda descriptor: (
        None
    )  # what is in the system's memory outlives a program; this takes the time of a disk's otherwise
    staging.GRACE_SECONDS = store_module.UNUSED_SECONDS = -1
    for point in range(1, MANY):
        root = Path(folder) / "store"
        shutil.copytree(first.root, root)
        child = os.fork()
        if child == 0:
            die_before(point)
            changes(Store(root), path)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        store = Store(root)
        check_whole(store)
        store.prune()
        check_whole(store)
        assert [path.name for path in store.staging.folder.iterdir()] == ["lock"], point
        used = set().union(*(model.manifest.digests for model in store.list()))
        assert {path.name for path in store.blobs.iterdir()} == {digest.replace(":", "-") for digest in used}, point
        shutil.rmtree(root)
        if ended == 0:
            print(point)
            return
        assert ended == -signal.SIGKILL, (point, ended)


if __name__ == "__main__":
    main(*sys.argv[1:])
