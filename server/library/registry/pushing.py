"""Pushes a model: the blobs that the registry lacks, then the manifest, unchanged except for paths of local files."""

import asyncio
import errno
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from yarl import URL

from vkbackend.errors import VkbackendError

from ... import pools
from ..create import Report
from ..model import MANIFEST_TYPE, Layer, ModelNotFound
from ..names import parse_name
from ..store import Store
from . import authorization, manifest
from .client import Credentials, RegistryClient, Response
from .endpoint import Endpoint, resolve
from .errors import Refused, RegistryError, TemporaryFailure
from .limits import TransferLimits

PIECE_BYTES = 256 << 10
REPORT_SECONDS = 0.1


async def push_model(
    store: Store, text: str, report: Report, insecure: bool, credentials: Credentials, limits: TransferLimits
) -> None:
    """Push the model called `text`. Raises RegistryError, InvalidName, ModelNotFound and StoreError."""
    report("retrieving manifest")
    try:
        endpoint = resolve(text, insecure)
        contents = await pools.run_to_end("registry", _contents, store, endpoint, text)
        config, layers = manifest.read_manifest(contents, endpoint.name.shortest)
    except VkbackendError:
        report("couldn't retrieve manifest")
        raise
    contents = manifest.without_local_paths(contents)
    async with RegistryClient(endpoint, credentials, limits) as client:
        try:
            for layer in {layer.digest: layer for layer in [*layers, config] if layer.digest}.values():
                await Upload(client, layer, store.blob_path(layer.digest)).run(report)
            report("pushing manifest")
            await client.retried(lambda: _put_manifest(client, contents))
        except Refused as error:
            if error.status == 401:
                raise RegistryError(
                    f"{error}; if you have an account at {endpoint.base.host}, add this machine's key to it: "
                    f"{authorization.public_key()}"
                ) from None
            raise
    report("success")


def _contents(store: Store, endpoint: Endpoint, text: str) -> bytes:
    try:
        return store.manifest_bytes(store.existing_name(endpoint.name))
    except ModelNotFound:
        raise ModelNotFound(text) from None


async def _put_manifest(client: RegistryClient, contents: bytes) -> None:
    media_type = json.loads(contents).get("mediaType") or MANIFEST_TYPE
    async with client.open("PUT", client.endpoint.manifest_url, {"Content-Type": media_type}, contents):
        pass


class Upload:
    """Uploads a blob in sequential pieces, as the protocol requires; resumes a failed one where the registry ended."""

    def __init__(self, client: RegistryClient, layer: Layer, path: Path):
        self._client = client
        self._layer = layer
        self._path = path
        self._location: URL | None = None
        self._sent = 0  # bytes, including those not acknowledged yet
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
                raise OSError(errno.EINVAL, "not a regular file")
            self._size = status.st_size
        except OSError as error:
            raise RegistryError(
                f"blob {path.name} cannot be read ({error.strerror}); pull or create the model again"
            ) from None

    async def run(self, report: Report) -> None:
        """Upload the blob unless the registry has it, calling `report` up to ten times a second."""
        task = asyncio.create_task(self._client.retried(self._attempt, lambda: self._sent))
        try:
            while not task.done():
                self._tell(report)
                await asyncio.wait([task], timeout=REPORT_SECONDS)
            task.result()
        finally:
            task.cancel()
        self._sent = self._size
        self._tell(report)

    def _tell(self, report: Report) -> None:
        report(f"pushing {self._layer.digest[7:19]}", self._layer.digest, self._size, self._sent)

    async def _attempt(self) -> None:
        location = await self._resumed()
        if location is None:
            location = None if await self._is_known() else await self._begin()
        if location is None:
            return
        while self._sent < self._size:
            location = await self._send_piece(location)
        separator = "&" if location.raw_query_string else "?"
        url = URL(f"{location}{separator}digest={quote(self._layer.digest)}", encoded=True)
        async with self._client.open("PUT", url, {"Content-Type": "application/octet-stream", "Content-Length": "0"}):
            pass

    async def _is_known(self) -> bool:
        try:
            async with self._client.open("HEAD", self._client.endpoint.blob_url(self._layer.digest)):
                return True
        except Refused as error:
            if error.status == 404:
                return False
            raise

    async def _begin(self) -> URL | None:
        """Location of a new upload; None if the registry mounts the blob from the model that it was taken from."""
        url = self._client.endpoint.uploads_url
        source = parse_name(self._layer.source)
        if source.is_valid and source.host.lower() == self._client.endpoint.name.host.lower():
            url = url.with_query({"mount": self._layer.digest, "from": f"{source.namespace}/{source.model}"})
        async with self._client.open("POST", url, {"Content-Length": "0"}) as response:
            location = self._next_location(response)
            self._sent = 0
            return None if response.status == 201 else location

    async def _resumed(self) -> URL | None:
        """Location of the interrupted upload; None if there is none, or the registry has forgotten it."""
        if self._location is None:
            return None
        try:
            async with self._client.open("GET", self._location) as response:
                self._sent = _end_of(response, 0)
                return self._next_location(response)
        except Refused as error:
            if error.status != 404:
                raise
            self._location = None
            return None

    async def _send_piece(self, location: URL) -> URL:
        """Send the next piece; the location for the one after it."""
        start = self._sent
        size = min(self._client.limits.upload_part_bytes, self._size - self._sent)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            "Content-Range": f"{start}-{start + size - 1}",
        }
        try:
            async with asyncio.timeout(self._client.limits.stall_seconds) as watch:
                async with self._client.open(
                    "PATCH", location, headers, lambda: self._pieces(start, size, watch)
                ) as response:
                    self._sent = _end_of(response, start + size)
                    return self._next_location(response)
        except TimeoutError:
            raise TemporaryFailure(
                f"{location.host} accepted no data for {self._client.limits.stall_seconds:g} s"
            ) from None
        except Refused as error:
            if error.status == 416:  # the registry has more or fewer bytes than expected
                raise TemporaryFailure(str(error)) from None
            raise

    async def _pieces(self, start: int, size: int, watch: asyncio.Timeout) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        with open(self._path, "rb") as file:
            self._sent = start
            while self._sent < start + size:
                piece = os.pread(file.fileno(), min(PIECE_BYTES, start + size - self._sent), self._sent)
                if not piece:
                    raise RegistryError(f"blob {self._path.name} became shorter during the upload")
                yield piece
                self._sent += len(piece)
                watch.reschedule(loop.time() + self._client.limits.stall_seconds)

    def _next_location(self, response: Response) -> URL:
        """Location for the next request, which each response may change."""
        location = response.headers.get("Location")
        if location:
            self._location = response.url.join(URL(location, encoded=True))
        if self._location is None:
            raise RegistryError(f"{response.url.host} gives no location for the upload of {self._layer.digest}")
        return self._location


def _end_of(response: Response, otherwise: int) -> int:
    """Bytes that the registry has, from `Range: 0-1233`; if it has none, it may say 0-0."""
    first, _, last = (response.headers.get("Range") or "").removeprefix("bytes=").partition("-")
    return int(last) + 1 if first == "0" and last.isdecimal() and last != "0" else otherwise
