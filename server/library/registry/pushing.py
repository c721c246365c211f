"""A model to a registry: the blobs that it lacks, then the manifest, byte for byte as it is in the store unless it
tells of local files.
"""

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
from ..model import MANIFEST_TYPE, Layer, ModelNotFound
from ..names import parse
from ..store import Store
from . import authorization, manifest
from .client import Client, Credentials
from .endpoint import Endpoint, resolve
from .errors import Passing, Refused, RegistryError
from .limits import Limits

PIECE_BYTES = 256 << 10
REPORT_SECONDS = 0.1


async def push_model(store: Store, text: str, report, insecure: bool, credentials: Credentials, limits: Limits) -> None:
    report("retrieving manifest")
    try:
        endpoint = resolve(text, insecure)
        contents = await pools.run_to_end("registry", _contents, store, endpoint, text)
        config, layers = manifest.parse(contents, endpoint.name.shortest)
    except VkbackendError:
        report("couldn't retrieve manifest")
        raise
    contents = manifest.for_others(contents)
    async with Client(endpoint, credentials, limits) as client:
        try:
            for layer in {layer.digest: layer for layer in [*layers, config] if layer.digest}.values():
                await Upload(client, layer, store.blob_path(layer.digest)).run(report)
            report("pushing manifest")
            await client.retried(lambda: _put_manifest(client, contents))
        except Refused as error:
            if error.status == 401:
                raise RegistryError(
                    f"{error}; if {endpoint.base.host} keeps accounts, add this machine's key to yours: "
                    f"{authorization.public_key()}"
                ) from None
            raise
    report("success")


def _contents(store: Store, endpoint: Endpoint, text: str) -> bytes:
    try:
        return store.manifest_bytes(store.existing_name(endpoint.name))
    except ModelNotFound:
        raise ModelNotFound(text) from None


async def _put_manifest(client: Client, contents: bytes) -> None:
    media_type = json.loads(contents).get("mediaType") or MANIFEST_TYPE
    async with client.open("PUT", client.endpoint.manifest_url, {"Content-Type": media_type}, contents):
        pass


class Upload:
    """One blob, in pieces one after the other: the protocol knows no other order. What broke off goes on where the
    registry says it ended.
    """

    def __init__(self, client: Client, layer: Layer, path: Path):
        self._client, self._layer, self._path = client, layer, path
        self._location: URL | None = None
        self._sent = 0  # by now, what the registry has said nothing to included
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
                raise OSError(errno.EINVAL, "it is not a plain file")
            self._size = status.st_size
        except OSError as error:
            raise RegistryError(
                f"blob {path.name} cannot be read ({error.strerror}); pull or create the model again"
            ) from None

    async def run(self, report) -> None:
        """`report` at most ten times a second."""
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

    def _tell(self, report) -> None:
        report(f"pushing {self._layer.digest[7:19]}", self._layer.digest, self._size, self._sent)

    async def _attempt(self) -> None:
        if self._location is not None:
            await self._ask_where_it_ended()
        if self._location is None and (await self._is_known() or await self._begin()):
            return
        while self._sent < self._size:
            await self._send_piece()
        separator = "&" if self._location.raw_query_string else "?"
        url = URL(f"{self._location}{separator}digest={quote(self._layer.digest)}", encoded=True)
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

    async def _begin(self) -> bool:
        """Asks for a place to send to. True where the registry has the blob from the model it was made from, and
        takes it from there.
        """
        url, source = self._client.endpoint.uploads_url, parse(self._layer.source)
        if source.is_valid and source.host.lower() == self._client.endpoint.name.host.lower():
            url = url.with_query({"mount": self._layer.digest, "from": f"{source.namespace}/{source.model}"})
        async with self._client.open("POST", url, {"Content-Length": "0"}) as response:
            self._note_location(response)
            self._sent = 0
            return response.status == 201

    async def _ask_where_it_ended(self) -> None:
        """Forgets the place where the registry has."""
        try:
            async with self._client.open("GET", self._location) as response:
                self._note_location(response)
                self._sent = _end_of(response, 0)
        except Refused as error:
            if error.status != 404:
                raise
            self._location = None

    async def _send_piece(self) -> None:
        start, size = self._sent, min(self._client.limits.upload_part_bytes, self._size - self._sent)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            "Content-Range": f"{start}-{start + size - 1}",
        }
        try:
            async with asyncio.timeout(self._client.limits.stall_seconds) as watch:
                async with self._client.open(
                    "PATCH", self._location, headers, lambda: self._pieces(start, size, watch)
                ) as response:
                    self._note_location(response)
                    self._sent = _end_of(response, start + size)
        except TimeoutError:
            raise Passing(f"{self._location.host} took nothing for {self._client.limits.stall_seconds:g} s") from None
        except Refused as error:
            if error.status == 416:  # it has more or less than we thought
                raise Passing(str(error)) from None
            raise

    async def _pieces(self, start: int, size: int, watch: asyncio.Timeout) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        with open(self._path, "rb") as file:
            self._sent = start
            while self._sent < start + size:
                piece = os.pread(file.fileno(), min(PIECE_BYTES, start + size - self._sent), self._sent)
                if not piece:
                    raise RegistryError(f"blob {self._path.name} became shorter while it was sent")
                yield piece
                self._sent += len(piece)
                watch.reschedule(loop.time() + self._client.limits.stall_seconds)

    def _note_location(self, response) -> None:
        location = response.headers.get("Location")
        if location:
            self._location = response.url.join(URL(location, encoded=True))
        elif self._location is None:
            raise RegistryError(f"{response.url.host} says not where to send {self._layer.digest}")


def _end_of(response, otherwise: int) -> int:
    """How much the registry has, from `Range: 0-1233`; a registry that has nothing may say 0-0."""
    first, _, last = (response.headers.get("Range") or "").removeprefix("bytes=").partition("-")
    return int(last) + 1 if first == "0" and last.isdecimal() and last != "0" else otherwise
