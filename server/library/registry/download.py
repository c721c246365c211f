"""Downloads one blob into the store: in parallel parts, resuming an interrupted pull.

In: an `Endpoint` and a layer. Out: the blob in its place, its digest verified. Pulls of the same blob in this process
share one download (`join`), which ends when the last of them leaves. A download of the same blob in another process is
waited for.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

from yarl import URL

from ... import pools
from ..model import DigestMismatch, Layer
from ..store import Store
from .client import Credentials, RegistryClient, Response
from .endpoint import Endpoint
from .errors import RegistryError, TemporaryFailure
from .limits import TransferLimits
from .partial import BlobPart, Partial, check_room, folder_of, num_present, open_partial

log = logging.getLogger(__name__)

PIECE_BYTES = 256 << 10
REPORT_SECONDS = 0.1
REPEAT_SECONDS = 1.0  # a report is repeated if nothing has changed for so long
OTHER_PROCESS_SECONDS = 0.3  # between two checks of another process's progress
_running: dict[Path, "Download"] = {}  # by path of the blob; used on the registry's event loop only
Tell = Callable[[int, int], None]  # receives (completed, total) in bytes


class Download:
    """A running download. task: ends when the blob is in its place; fetched: set once only the digest check remains.

    total: size in bytes, 0 if not known.
    """

    def __init__(
        self, store: Store, layer: Layer, endpoint: Endpoint, credentials: Credentials, limits: TransferLimits
    ):
        self.target = store.blob_path(layer.digest)
        self.layer = layer
        self.total = layer.size
        self.num_followers = 0
        self._folder = folder_of(store)
        self._endpoint = endpoint
        self._credentials = credentials
        self._limits = limits
        self._partial: Partial | None = None
        self.fetched = asyncio.Event()
        self.task = asyncio.create_task(self._run())
        # Marks the exception as retrieved, even if there are no followers any more.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def completed(self) -> int:
        """Bytes present, including those of earlier pulls and other processes."""
        if self._partial is not None:
            return self._partial.completed
        return num_present(self._folder, self.layer.digest)

    async def _run(self) -> None:
        try:
            async with RegistryClient(self._endpoint, self._credentials, self._limits) as client:
                if not self.total:
                    self.total = await client.retried(lambda: self._size_at(client))
                    check_room(self.target.parent, self.total - self.completed)
                await self._download(client)
        finally:
            self.fetched.set()
            if _running.get(self.target) is self:
                del _running[self.target]

    async def _download(self, client: RegistryClient) -> None:
        """Download what is missing.

        Parts of an earlier pull may be damaged, by a loss of power: on a wrong digest everything is downloaded again,
        once.
        """
        while (partial := self._open()) is None:
            await asyncio.sleep(OTHER_PROCESS_SECONDS)
            if self.target.is_file():
                return
        is_resumed = partial.completed > 0
        try:
            await self._fill(client, partial)
        except DigestMismatch as error:
            log.warning("%s: %s", self._endpoint.base.host, error)
            if not is_resumed:
                raise RegistryError(
                    f"{error}: the data from {self._endpoint.base.host} was discarded; pull again"
                ) from None
            self.fetched.clear()
            await self._download(client)

    def _open(self) -> Partial | None:
        return open_partial(self._folder, self.layer.digest, self.total, self._limits.part_bytes(self.total))

    async def _fill(self, client: RegistryClient, partial: Partial) -> None:
        self._partial = partial
        try:
            if not partial.is_fetched:
                await Parts(client, self._endpoint.blob_url(self.layer.digest), partial, self.total).fetch()
                partial.save()
            self.fetched.set()
            await _to_completion(pools.run_to_end("registry", partial.finish, self.layer.digest, self.target))
        finally:
            if not self.fetched.is_set():
                partial.save()
            partial.close()

    async def _size_at(self, client: RegistryClient) -> int:
        """Content-Length of the blob, for a manifest without sizes; 0 if the registry does not say."""
        async with client.open("HEAD", self._endpoint.blob_url(self.layer.digest)) as response:
            return response.content_length or 0

    async def watch(self, tell: Tell) -> None:
        """Wait until everything is fetched, calling `tell` on progress.

        At most ten times a second, and once a second without progress. Raises the download's error.
        """
        reported = None
        reported_at = 0.0
        while not self.fetched.is_set():
            now = time.monotonic()
            state = (self.completed, self.total)
            if state != reported or now - reported_at > REPEAT_SECONDS:
                reported = state
                reported_at = now
                tell(*state)
            await asyncio.wait([self.task], timeout=REPORT_SECONDS)
        if self.task.done():
            self.task.result()
        if reported is not None:
            tell(self.total or self.completed, self.total)

    async def watch_to_the_end(self, tell: Tell) -> None:
        """Wait until the blob is in its place, calling `tell` on progress. Raises the download's error."""
        while not self.task.done():
            await self.watch(tell)
            await asyncio.wait([self.task], timeout=REPORT_SECONDS)
        self.task.result()


class Parts:
    """Fetches the missing parts of a blob, several at a time if the registry supports ranges."""

    def __init__(self, client: RegistryClient, url: URL, partial: Partial, total: int):
        self._client = client
        self._url = url
        self._partial = partial
        self._total = total
        self._queue = deque(part for part in partial.parts if not part.is_done)
        self._is_answered = asyncio.Event()
        self._knows_ranges = False

    async def fetch(self) -> None:
        """Fetch the first part alone until its response shows that the registry supports ranges, then others too."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._work())
                await self._is_answered.wait()
                if self._knows_ranges:
                    for _ in range(min(self._client.limits.parallel - 1, len(self._queue))):
                        group.create_task(self._work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _work(self) -> None:
        while self._queue:
            await self._fetch_with_retries(self._queue.popleft())
        self._is_answered.set()

    async def _fetch_with_retries(self, part: BlobPart) -> None:
        await self._client.retried(lambda: self._fetch_part(part), lambda: part.completed)

    async def _fetch_part(self, part: BlobPart) -> None:
        """One attempt to fetch the missing bytes of a part."""
        start = part.offset + part.completed
        headers = {}
        if part.size is None and start:
            headers = {"Range": f"bytes={start}-"}
        elif part.size is not None and (start or part.size != self._total):
            headers = {"Range": f"bytes={start}-{part.offset + part.size - 1}"}
        async with self._client.open("GET", self._url, headers) as response:
            if headers and response.status == 200:
                part = self._start_over(part)
            elif headers and not (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
                raise TemporaryFailure(
                    f"{response.url.host} sent a different range than requested "
                    f"({response.headers.get('Content-Range')})"
                )
            self._knows_ranges = bool(headers) and response.status == 206
            self._is_answered.set()
            await self._read(response, part)

    def _start_over(self, part: BlobPart) -> BlobPart:
        """Start over as one part: the registry ignores ranges and sends the whole blob."""
        if self._knows_ranges:
            raise TemporaryFailure(f"{self._url.host} ignored the requested range")
        self._queue.clear()
        return self._partial.become_one_part()

    async def _read(self, response: Response, part: BlobPart) -> None:
        async for piece in response.content.iter_chunked(PIECE_BYTES):
            room = len(piece) if part.size is None else part.size - part.completed
            self._partial.write(part, piece[:room])
            if part.is_done:
                return
        if part.size is None:
            part.size = part.completed
        if not part.is_done:
            raise TemporaryFailure(f"{response.url.host} ended {part.size - part.completed} bytes too early")


def join(
    store: Store, layer: Layer, endpoint: Endpoint, credentials: Credentials, limits: TransferLimits
) -> tuple[Download, bool]:
    """(the download of a blob, whether this call has started it). Each caller must `leave` it once."""
    target = store.blob_path(layer.digest)
    download = _running.get(target)
    is_own = download is None
    if download is None:
        download = Download(store, layer, endpoint, credentials, limits)
        _running[target] = download
    download.num_followers += 1
    return download, is_own


async def leave(download: Download) -> None:
    """Stop following a download. The last follower cancels it, and waits until its parts are saved."""
    download.num_followers -= 1
    if not download.num_followers and not download.task.done():
        download.task.cancel()
        if _running.get(download.target) is download:
            del _running[download.target]
        await asyncio.wait([download.task])


async def _to_completion(work: Awaitable[object]) -> None:
    """Await `work`; on cancellation wait for its end: a thread cannot be stopped, and must not lose its file."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.exception()
        raise
