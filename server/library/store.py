"""The model store: Ollama's own layout, so that an existing library is used in place.

    ROOT/manifests/HOST/NAMESPACE/MODEL/TAG   a Docker schema 2 manifest: config and layers (digest, media type, size)
    ROOT/blobs/sha256-HEX                     their contents, shared between models
    ROOT/.vkbackend/                          this program's own: files being written, and a lock

In: names, bytes. Out: `StoredModel`. Files are written elsewhere and then moved to their place, blobs before the
manifest that references them: a reader, or the next start after a crash, sees the old or the new state, never a mix.
Changes run one at a time under `Store.lock`, which also excludes other processes of this program, but not an Ollama
server on the same store. A blob is removed when no manifest references it. Knows nothing of HTTP or GGUF.
"""

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any, TypeVar

from vkbackend import settings

from . import staging
from .model import (
    MANIFEST_TYPE,
    MAX_MANIFEST_BYTES,
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
from .names import ModelName, from_file_path, parse_name
from .upload import DIGEST, Upload, blob_path, changes, normal_digest

log = logging.getLogger(__name__)

T = TypeVar("T")
OWN_FOLDER = ".vkbackend"  # not below blobs/, where Ollama deletes files that are not named like blobs
UNUSED_SECONDS = 24 * 3600  # age from which an unreferenced blob is removed; a younger one may belong to a new model


class Store:
    """All models below one folder, which is created on the first write."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.staging = staging.Staging(self.root / OWN_FOLDER)
        self.lock = staging.ProcessLock(self.root / OWN_FOLDER / "lock")

    @property
    def blobs(self) -> Path:
        """ROOT/blobs, created if needed."""
        return staging.make_folder(self.root / "blobs")

    @property
    def manifests(self) -> Path:
        """ROOT/manifests, whether it exists or not."""
        return self.root / "manifests"

    # --- blobs

    def blob_path(self, digest: str) -> Path:
        """Path of a digest's contents, whether they exist or not. Raises InvalidDigest."""
        return blob_path(self.root, digest)

    def upload(self) -> Upload:
        """A new blob that is written in pieces."""
        return Upload(self.root, self.staging)

    def add_blob(self, contents: bytes) -> tuple[str, bool]:
        """Store `contents` unless they are there already; (digest, whether the blob is new)."""
        digest = f"sha256:{hashlib.sha256(contents).hexdigest()}"
        if self.blob_path(digest).is_file():
            return digest, False
        with self.upload() as upload:
            upload.write(contents)
            return upload.finish(), True

    def read_json(self, digest: str) -> dict:
        """Contents of a blob that is a JSON object. Raises StoreError."""
        try:
            value = parse_json(read_plain(self.blob_path(digest), MAX_MANIFEST_BYTES)[0])
        except (OSError, ValueError):
            value = None
        if not isinstance(value, dict):
            raise StoreError(f"blob {digest} cannot be read or is not a JSON object; pull or create its model again")
        return value

    # --- names and manifests

    def all_names(self, skip_unreadable: bool = True) -> list[ModelName]:
        """Names of all manifests, readable or not, in the order of their paths.

        Folders that cannot be read are logged and skipped, or raise OSError.
        """
        paths = [""]
        for _ in range(4):  # host, namespace, model, tag
            paths = [
                f"{path}/{entry}".lstrip("/") for path in paths for entry in self._entries_of(path, skip_unreadable)
            ]
        found = (from_file_path(path) for path in paths)
        return [name for name in found if name is not None]

    def _entries_of(self, path: str, skip_unreadable: bool) -> "list[str]":  # quoted: the class has a method `list`
        try:
            return _entries(self.manifests / path)
        except OSError as error:
            if not skip_unreadable:
                raise
            log.warning("skipping the models in %s, which cannot be read (%s)", self.manifests / path, error.strerror)
            return []

    def existing_name(self, name: ModelName) -> ModelName:
        """The name of the stored model that equals `name` apart from case.

        If there is none, `name` with each part in the case that stored names use for it.
        """
        if os.path.lexists(self.manifests / name.file_path):
            return name
        known = self.all_names()
        return next((other for other in known if other.folded == name.folded), name.written_as(known))

    def manifest(self, name: ModelName) -> Manifest:
        """The manifest of `name`. Raises ModelNotFound, and StoreError for a damaged manifest."""
        path = self.manifests / name.file_path
        try:
            contents, status = read_plain(path, MAX_MANIFEST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            raise ModelNotFound(name.shortest) from None
        except OSError as error:
            advice = "move or remove it yourself" if path.is_dir() else "make it readable, or delete the model"
            raise StoreError(
                f"manifest of {name.shortest} cannot be read ({path}: {error.strerror}); {advice}"
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
        """The model called `name`, regardless of case.

        Raises InvalidName, ModelNotFound (with the name as given) and StoreError.
        """
        wanted = name if isinstance(name, ModelName) else parse_name(name)
        if not wanted.is_valid:
            raise InvalidName(f"{name} is not a model name; write it as model, model:tag or namespace/model:tag")
        try:
            return StoredModel(self.blob_path, self.manifest(self.existing_name(wanted)))
        except ModelNotFound:
            raise ModelNotFound(str(name)) from None

    def list(self) -> list[StoredModel]:
        """All readable models, most recently modified first; damaged ones are logged and skipped."""
        models = []
        for name in self.all_names():
            try:
                models.append(StoredModel(self.blob_path, self.manifest(name)))
            except (StoreError, ModelNotFound) as error:
                log.warning("%s", error)
        return sorted(models, key=lambda model: -(model.modified_at // 1_000_000_000))

    def write_manifest(self, name: ModelName, config: Layer, layers: "list[Layer]") -> None:
        """Make `name` a model of these layers. Blobs of its old manifest are removed if unreferenced."""
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
    def write_manifest_bytes(self, name: ModelName, contents: bytes) -> None:
        """Like `write_manifest`, with a manifest from a registry, byte for byte: its digest is that of its bytes."""
        with self.lock:
            before = self._digests_of(name)
            self._replace(self.manifests / name.file_path, contents)
            if not settings.get("OLLAMA_NOPRUNE"):
                self.remove_unused(before)

    def manifest_bytes(self, name: ModelName) -> bytes:
        """Contents of a manifest file. Raises ModelNotFound, and StoreError for a damaged manifest."""
        self.manifest(name)
        return read_plain(self.manifests / name.file_path, MAX_MANIFEST_BYTES)[0]

    def _digests_of(self, name: ModelName) -> set[str]:
        try:
            return self.manifest(name).digests
        except (ModelNotFound, StoreError):
            return set()

    def _replace(self, path: Path, contents: bytes) -> None:
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
    def copy(self, source: ModelName, destination: ModelName) -> None:
        """Copy a model to another name; onto itself does nothing. Raises ModelNotFound and StoreError."""
        with self.lock:
            source = self.existing_name(source)
            destination = self.existing_name(destination)
            contents = self.manifest_bytes(source)  # raises if it is missing or damaged
            if source == destination:
                return
            before = self._digests_of(destination)
            self._replace(self.manifests / destination.file_path, contents)
            self.remove_unused(before)

    @changes
    def delete(self, name: ModelName) -> None:
        """Delete a model, and its blobs if unreferenced. Raises ModelNotFound, and StoreError for a folder, whose
        files are not this program's.
        """
        with self.lock:
            name = self.existing_name(name)
            path = self.manifests / name.file_path
            if not os.path.lexists(path):
                raise ModelNotFound(name.shortest)
            if path.is_dir() and not path.is_symlink():
                raise StoreError(f"{path} is a folder in place of a model's manifest; move or remove it yourself")
            before = self._digests_of(name)
            path.unlink()
            staging.sync_folder(path.parent)  # before its blobs are removed: no manifest may be left without blobs
            for folder in list(path.parents)[:3]:
                try:
                    folder.rmdir()
                except OSError:  # not empty
                    break
            self.remove_unused(before)

    def remove_unused(self, digests: set[str]) -> None:
        """Delete those blobs of `digests` that no manifest references.

        Nothing is deleted if a manifest cannot be read: it might reference them.
        """
        with self.lock:
            used = self._used_digests()
            for digest in digests - used - {""} if used is not None else ():
                self.blob_path(digest).unlink(missing_ok=True)

    def _used_digests(self) -> set[str] | None:
        """Digests in all manifests; None if one cannot be read. Folders in place of manifests are ignored."""
        used = set()
        try:
            for name in self.all_names(skip_unreadable=False):
                if not (self.manifests / name.file_path).is_dir():
                    used |= self.manifest(name).digests
        except (StoreError, ModelNotFound, OSError) as error:
            log.warning("not removing unreferenced blobs: %s", error)
            return None
        return used

    @changes
    def rename_old_blobs(self) -> None:
        """Rename blobs of old Ollama versions from sha256:HEX to sha256-HEX."""
        for entry in _entries(self.root / "blobs"):
            algorithm, separator, rest = entry.partition(":")
            if separator and algorithm == "sha256":
                os.replace(self.root / "blobs" / entry, self.root / "blobs" / f"{algorithm}-{rest}")

    @changes
    def prune(self) -> None:
        """Clean up at start: remove files that a crash left unfinished, and blobs unreferenced for a day.

        Younger blobs may become part of a model that this program or an Ollama server is creating. Files not named
        like blobs are kept. If there are blobs but no manifests, nothing is removed: the disk with the manifests may
        not be mounted.
        """
        if not (self.root / "blobs").is_dir():
            return
        self.staging.clear([self.root / "blobs"])
        with self.lock:
            unused = self._unused_blobs()
            if unused and not self.all_names():
                log.warning(
                    "%s has no manifests, but %s has blobs: not removing them. Is a disk not mounted? "
                    "If no model is missing, remove the blobs by hand",
                    self.manifests,
                    self.root / "blobs",
                )
                return
            for path in unused:
                log.info("removing unreferenced blob %s", path.name)
                path.unlink(missing_ok=True)

    def _unused_blobs(self) -> "list[Path]":
        """Unreferenced blobs of at least a day; none if a manifest cannot be read."""
        used = self._used_digests()
        if used is None:
            return []
        paths = [
            self.root / "blobs" / entry
            for entry in _entries(self.root / "blobs")
            if DIGEST.fullmatch(entry) and normal_digest(entry) not in used
        ]
        return [path for path in paths if _age_seconds(path) > UNUSED_SECONDS and not path.is_dir()]


def _entries(folder: Path) -> list[str]:
    """Sorted names; empty if the folder does not exist (any more)."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _age_seconds(path: Path) -> float:
    """Seconds since a file was written or moved to its place; 0 if it does not exist any more."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0.0
    return time.time() - max(status.st_mtime, status.st_ctime)


def _layer(entry: dict[str, Any]) -> Layer:
    """A layer of a manifest; missing and null fields are empty. Raises AttributeError, ValueError or InvalidDigest."""

    def field(key: str, kind: type[T]) -> T:
        value = entry.get(key)
        if value is not None and type(value) is not kind:
            raise ValueError(f"{key} is {value}")
        return value or kind()

    digest = field("digest", str)
    size = field("size", int)
    if not 0 <= size < 1 << 63:
        raise ValueError(f"size is {size}")
    return Layer(field("mediaType", str), normal_digest(digest) if digest else "", size, field("from", str))
