"""The model store: Ollama's own layout, so that an existing library is used in place.

    ROOT/manifests/HOST/NAMESPACE/MODEL/TAG   a Docker schema 2 manifest: a config and layers, each a digest, media type and size
    ROOT/blobs/sha256-HEX                     their contents, shared between models
    ROOT/.vkbackend/                          our own: files that are being written, and a lock

In: names, bytes. Out: `StoredModel`. Files are written elsewhere and moved to their place, blobs before the manifest
that names them, so that a reader, or the next start after a crash, finds the old or the new, never a half. Changes
run one at a time under `Store.lock`, also those of other processes of ours; a blob goes when no manifest names it.
An Ollama may work on the same store: it knows nothing of the lock. Knows nothing of HTTP or GGUF.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from functools import wraps
from pathlib import Path

from vkbackend import settings

from ..go.human import human_bytes
from . import staging
from .model import (
    LARGEST_MANIFEST_BYTES,
    MANIFEST_TYPE,
    DigestMismatch,
    InvalidDigest,
    InvalidName,
    Layer,
    Manifest,
    ModelNotFound,
    StoredModel,
    StoreError,
    parse_json,
    read_plain,
)
from .names import ModelName, from_file_path, parse

log = logging.getLogger(__name__)

OWN_FOLDER = (
    ".vkbackend"  # below the root, where Ollama does not look: it deletes what in blobs/ has another name than a blob's
)
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
UNUSED_SECONDS = (
    24 * 3600
)  # after which a blob that no manifest names is taken for forgotten, not for on its way into one


def changes(method):
    """Of something with a `root`: errors of the system become StoreErrors that say what to do."""

    @wraps(method)
    def changing(self, *arguments, **named):
        with staging.changing(self.root):
            return method(self, *arguments, **named)

    return changing


class Upload:
    """Contents on their way into the store: `write` pieces, then `finish`. A context manager: what is not finished
    at its end is dropped.
    """

    def __init__(self, store: "Store"):
        self._store, self._hash, self.size, self.root = store, hashlib.sha256(), 0, store.root
        self._path, self._file = self._new_file()

    @changes
    def _new_file(self):
        return self._store.staging.new_file(self._store.blobs)

    @changes
    def write(self, piece: bytes):
        self._hash.update(piece)
        self._file.write(piece)
        self.size += len(piece)

    def reserve(self, num_bytes: int):
        """Raises StoreError where the disk has no room for so many bytes."""
        free = shutil.disk_usage(self._path.parent).free
        if num_bytes > free:
            raise StoreError(
                f"{self._store.root} needs {human_bytes(num_bytes)} more; the disk has {human_bytes(free)} free: "
                "remove other models, or set OLLAMA_MODELS to a folder on another disk"
            )

    @changes
    def sync(self):
        """Bring what was written so far to the disk, which takes its time: better before the store is locked than
        meanwhile.
        """
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def path(self) -> Path:
        """Where what was written so far can be read."""
        self._file.flush()
        return self._path

    @property
    def digest(self) -> str:
        """`sha256:HEX` of what was written so far."""
        return f"sha256:{self._hash.hexdigest()}"

    @changes
    def finish(self, expected: str | None = None) -> str:
        """Bring the contents to their place. -> `sha256:HEX`. Raises DigestMismatch, leaving no trace, where
        `expected` differs.

        Until the end of the context they can be brought there again, should somebody else clear them away.
        """
        if expected is not None and normal_digest(expected) != self.digest:
            raise DigestMismatch(expected, self.digest)
        self.sync()
        os.chmod(self._path, 0o644)
        staging.place(self._path, self._store.blob_path(self.digest))
        return self.digest

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._file.close()
        except OSError:  # no room for what was still to be written; who wrote it knows by now
            pass
        self._path.unlink(missing_ok=True)


def normal_digest(text: str) -> str:
    """`sha256-HEX` or `sha256:HEX` -> `sha256:hex`. Raises InvalidDigest for anything else: such a text never
    becomes a path.
    """
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise InvalidDigest()
    return f"sha256:{match[1].lower()}"


class Store:
    """All models below one folder; the folder is made when something is written."""

    def __init__(self, root):
        self.root = Path(root)
        self.staging = staging.Staging(self.root / OWN_FOLDER)
        self.lock = staging.ProcessLock(self.root / OWN_FOLDER / "lock")

    @property
    def blobs(self) -> Path:
        return staging.make_folder(self.root / "blobs")

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    # --- blobs

    def blob_path(self, digest: str) -> Path:
        """Where the contents of a digest are, or would be. Raises InvalidDigest."""
        return self.root / "blobs" / normal_digest(digest).replace(":", "-")

    def upload(self) -> Upload:
        return Upload(self)

    def add_blob(self, contents: bytes) -> tuple[str, bool]:
        """-> (digest, whether it is new)."""
        digest = f"sha256:{hashlib.sha256(contents).hexdigest()}"
        if self.blob_path(digest).is_file():
            return digest, False
        with self.upload() as upload:
            upload.write(contents)
            return upload.finish(), True

    def read_json(self, digest: str) -> dict:
        """A blob that is a JSON object. Raises StoreError."""
        try:
            value = parse_json(read_plain(self.blob_path(digest), LARGEST_MANIFEST_BYTES)[0])
        except (OSError, ValueError):
            value = None
        if not isinstance(value, dict):
            raise StoreError(f"blob {digest} cannot be read or is no JSON object; pull or create its model again")
        return value

    # --- names and manifests

    def all_names(self, skip_unreadable: bool = True) -> list[ModelName]:
        """Of every manifest, in the order of their paths, be it readable or not. Folders that cannot be read are logged
        and left out, or raise OSError."""
        paths = [""]
        for _ in range(4):  # host, namespace, model, tag
            paths = [
                f"{path}/{entry}".lstrip("/") for path in paths for entry in self._entries_of(path, skip_unreadable)
            ]
        found = (from_file_path(path) for path in paths)
        return [name for name in found if name is not None]

    def _entries_of(self, path: str, skip_unreadable: bool) -> "list[str]":
        try:
            return _entries(self.manifests / path)
        except OSError as error:
            if not skip_unreadable:
                raise
            log.warning("the models in %s are left out: it cannot be read (%s)", self.manifests / path, error.strerror)
            return []

    def existing_name(self, name: ModelName) -> ModelName:
        """The name of a model that differs from `name` at most in case. Where there is none, `name` with each part
        written as in the names that are here.
        """
        if os.path.lexists(self.manifests / name.file_path):
            return name
        known = self.all_names()
        return next((other for other in known if other.folded == name.folded), name.written_as(known))

    def manifest(self, name: ModelName) -> Manifest:
        """Raises ModelNotFound, and StoreError for a damaged manifest."""
        path = self.manifests / name.file_path
        try:
            contents, status = read_plain(path, LARGEST_MANIFEST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            raise ModelNotFound(name.shortest) from None
        except OSError as error:
            raise StoreError(
                f"manifest of {name.shortest} cannot be read ({path}: {error.strerror}); make it readable, "
                "or delete the model"
            ) from None
        try:
            document = parse_json(contents)
            layers = [_layer(entry) for entry in document.get("layers") or []]
            config = _layer(document.get("config") or {})
        except (ValueError, AttributeError, TypeError, InvalidDigest):
            raise StoreError(
                f"manifest of {name.shortest} is damaged ({path}); pull or create the model again, or delete it"
            ) from None
        return Manifest(name, hashlib.sha256(contents).hexdigest(), status.st_mtime_ns, config, layers)

    def get(self, name: str | ModelName) -> StoredModel:
        """The model of a name as a user writes it, whatever its case. Raises InvalidName, ModelNotFound (naming it
        as given), StoreError.
        """
        wanted = name if isinstance(name, ModelName) else parse(name)
        if not wanted.is_valid:
            raise InvalidName(f"{name} is no model name; write it as model, model:tag or namespace/model:tag")
        try:
            return StoredModel(self, self.manifest(self.existing_name(wanted)))
        except ModelNotFound:
            raise ModelNotFound(name) from None

    def list(self) -> list[StoredModel]:
        """Every readable model, the one changed last first; damaged ones are logged and left out."""
        models = []
        for name in self.all_names():
            try:
                models.append(StoredModel(self, self.manifest(name)))
            except (StoreError, ModelNotFound) as error:
                log.warning("%s", error)
        return sorted(models, key=lambda model: -(model.modified_at // 1_000_000_000))

    def write_manifest(self, name: ModelName, config: Layer, layers: "list[Layer]"):
        """Make `name` stand for these layers; what it stood for before goes where nothing else uses it."""
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.as_json(),
            "layers": [layer.as_json() for layer in layers],
        }
        self.write_manifest_bytes(
            name, (json.dumps(document, separators=(",", ":"), ensure_ascii=False) + "\n").encode()
        )

    @changes
    def write_manifest_bytes(self, name: ModelName, contents: bytes):
        """The same with a manifest as a registry gave it: its digest is that of its bytes."""
        with self.lock:
            before = self._digests_of(name)
            self._replace(self.manifests / name.file_path, contents)
            if not settings.get("OLLAMA_NOPRUNE"):
                self.remove_unused(before)

    def manifest_bytes(self, name: ModelName) -> bytes:
        """As they stand in the store. Raises ModelNotFound, and StoreError for a damaged manifest."""
        self.manifest(name)
        return read_plain(self.manifests / name.file_path, LARGEST_MANIFEST_BYTES)[0]

    def _digests_of(self, name: ModelName) -> set[str]:
        try:
            return self.manifest(name).digests
        except (ModelNotFound, StoreError):
            return set()

    def _replace(self, path: Path, contents: bytes):
        temporary, file = self.staging.new_file(staging.make_folder(path.parent))
        try:
            with file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(temporary, 0o644)
                os.replace(temporary, path)
            staging.sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    @changes
    def copy(self, source: ModelName, destination: ModelName):
        """Raises ModelNotFound. Copying a model onto itself changes nothing."""
        with self.lock:
            source, destination = self.existing_name(source), self.existing_name(destination)
            contents = self.manifest_bytes(source)  # raises for one that is missing or damaged
            if source == destination:
                return
            before = self._digests_of(destination)
            self._replace(self.manifests / destination.file_path, contents)
            self.remove_unused(before)

    @changes
    def delete(self, name: ModelName):
        """Raises ModelNotFound."""
        with self.lock:
            name = self.existing_name(name)
            path = self.manifests / name.file_path
            if not os.path.lexists(path):
                raise ModelNotFound(name.shortest)
            before = self._digests_of(name)
            path.unlink()
            staging.sync_folder(
                path.parent
            )  # gone for good before its blobs are: a manifest without blobs would be of no use
            for folder in list(path.parents)[:3]:
                try:
                    folder.rmdir()
                except OSError:  # not empty
                    break
            self.remove_unused(before)

    def remove_unused(self, digests: set[str]):
        """Delete those of `digests` that no manifest names. Where a manifest cannot be read nothing is deleted: it
        might name them.
        """
        with self.lock:
            used = self._used_digests()
            for digest in digests - used - {""} if used is not None else ():
                self.blob_path(digest).unlink(missing_ok=True)

    def _used_digests(self) -> set[str] | None:
        """Of all manifests; None where one cannot be read. A folder in a manifest's place is none."""
        used = set()
        try:
            for name in self.all_names(skip_unreadable=False):
                if not (self.manifests / name.file_path).is_dir():
                    used |= self.manifest(name).digests
        except (StoreError, ModelNotFound, OSError) as error:
            log.warning("no unused blobs are removed: %s", error)
            return None
        return used

    @changes
    def rename_old_blobs(self):
        """Give blobs that an old Ollama wrote, named sha256:HEX, the names that they have today, sha256-HEX."""
        for entry in _entries(self.root / "blobs"):
            algorithm, separator, rest = entry.partition(":")
            if separator and algorithm == "sha256":
                os.replace(self.root / "blobs" / entry, self.root / "blobs" / f"{algorithm}-{rest}")

    @changes
    def prune(self):
        """At start: clear away what a crash left of unfinished work, and blobs that no manifest has named for a day.
        Younger ones may be on their way into a model, of this program or of an Ollama that uses the same store. Files
        with other names than a blob's are left alone, and so is everything where there are blobs but no manifests: the
        disk that holds those may not be mounted.
        """
        if not (self.root / "blobs").is_dir():
            return
        self.staging.clear([self.root / "blobs"])
        with self.lock:
            unused = self._unused_blobs()
            if unused and not self.all_names():
                log.warning(
                    "%s holds no manifests, but there are blobs in %s: none are removed. Is a disk not mounted? "
                    "If no model is missed, remove the blobs by hand",
                    self.manifests,
                    self.root / "blobs",
                )
                return
            for path in unused:
                log.info("removing unused blob %s", path.name)
                path.unlink(missing_ok=True)

    def _unused_blobs(self) -> "list[Path]":
        """Of a day or older; none where a manifest cannot be read."""
        used = self._used_digests()
        if used is None:
            return []
        paths = [
            self.root / "blobs" / entry
            for entry in _entries(self.root / "blobs")
            if _DIGEST.fullmatch(entry) and normal_digest(entry) not in used
        ]
        return [path for path in paths if _age_seconds(path) > UNUSED_SECONDS and not path.is_dir()]


def _entries(folder: Path) -> list[str]:
    """Sorted; none where there is no such folder, be it that it went this very moment."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _age_seconds(path: Path) -> float:
    """Since it was written, or came to its place; 0 where it went this very moment."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0.0
    return time.time() - max(status.st_mtime, status.st_ctime)


def _layer(entry: dict) -> Layer:
    """Fields that are missing or null are empty. Raises AttributeError, ValueError or InvalidDigest for what is no
    layer.
    """

    def field(key, kind):
        value = entry.get(key)
        if value is not None and type(value) is not kind:
            raise ValueError(f"{key} is {value}")
        return value or kind()

    digest, size = field("digest", str), field("size", int)
    if not 0 <= size < 1 << 63:
        raise ValueError(f"size is {size}")
    return Layer(field("mediaType", str), normal_digest(digest) if digest else "", size, field("from", str))
