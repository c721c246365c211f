"""One blob from a registry into the store: in parts, several at a time, gone on with where an earlier pull ended.

In: an `Endpoint` and a layer. Out: the blob in its place, its digest checked. Pulls of the same blob in this process
follow one download (`join`), and it ends when the last of them leaves; another process that is at the same blob is
waited for.
"""

import asyncio
import logging
import time
from collections import deque
from pathlib import Path

import aiohttp

from ... import pools
from ..model import DigestMismatch, Layer
from ..store import Store
from .client import Client, Credentials
from .endpoint import Endpoint
from .errors import Passing, RegistryError
from .limits import Limits
from .partial import Part, Partial, check_room, folder_of, num_present, open_partial

log = logging.getLogger(__name__)

PIECE_BYTES = 256 << 10
REPORT_SECONDS = 0.1
SILENT_SECONDS = 1.0  # without a report
OTHER_PROCESS_SECONDS = 0.3  # between two looks at how far another process is
_running: dict[Path, "Download"] = {}  # blob -> who fetches it; touched on the registry's event loop only


class Download:
    """`task` ends when the blob is there; `fetched` is set while only its digest is left to check. total: 0 where it
    is not known.
    """

    def __init__(self, store: Store, layer: Layer, endpoint: Endpoint, credentials: Credentials, limits: Limits):
        self.target, self.layer, self.total, self.num_followers = store.blob_path(layer.digest), layer, layer.size, 0
        self._folder = folder_of(store)
        self._endpoint, self._credentials, self._limits = endpoint, credentials, limits
        self._partial: Partial | None = None
        self.fetched = asyncio.Event()
        self.task = asyncio.create_task(self._run())
        self.task.add_done_callback(
            lambda task: task.cancelled() or task.exception()
        )  # somebody has looked at it, followers or none

    @property
    def completed(self) -> int:
        if self._partial is not None:
            return self._partial.completed
        return num_present(self._folder, self.layer.digest)

    async def _run(self) -> None:
        try:
            async with Client(self._endpoint, self._credentials, self._limits) as client:
                self._client = client
                if not self.total:
                    self.total = await client.retried(self._asked_size)
                    check_room(self.target.parent, self.total - self.completed)
                await self._bring()
        finally:
            self.fetched.set()
            if _running.get(self.target) is self:
                del _running[self.target]

    async def _bring(self) -> None:
        """What an earlier pull left may not be what it wrote (a power cut): if the digest says so, everything is
        fetched anew, once.
        """
        while (partial := self._open()) is None:
            await asyncio.sleep(OTHER_PROCESS_SECONDS)
            if self.target.is_file():
                return
        was_begun = partial.completed > 0
        try:
            await self._fill(partial)
        except DigestMismatch as error:
            log.warning("%s: %s", self._endpoint.base.host, error)
            if was_begun:
                self.fetched.clear()
                await self._bring()
            else:
                raise RegistryError(
                    f"{error}: what {self._endpoint.base.host} gave was thrown away; pull again"
                ) from None

    def _open(self) -> Partial | None:
        return open_partial(self._folder, self.layer.digest, self.total, self._limits.part_bytes(self.total))

    async def _fill(self, partial: Partial) -> None:
        self._partial = partial
        try:
            if not partial.is_fetched:
                await self._fetch()
                partial.save()
            self.fetched.set()
            await _to_its_end(pools.run_to_end("registry", partial.finish, self.layer.digest, self.target))
        finally:
            if not self.fetched.is_set():
                partial.save()
            partial.close()

    async def _asked_size(self) -> int:
        """Content-Length, for a manifest without sizes; 0 where the registry does not say."""
        async with self._client.open("HEAD", self._endpoint.blob_url(self.layer.digest)) as response:
            return response.content_length or 0

    async def watch(self, tell) -> None:
        """Until everything is fetched: `tell(completed, total)` as it gets further, at most ten times a second, and
        every second where it does not. Raises what the download failed with.
        """
        told, told_at = None, 0.0
        while not self.fetched.is_set():
            now, state = time.monotonic(), (self.completed, self.total)
            if state != told or now - told_at > SILENT_SECONDS:
                told, told_at = state, now
                tell(*state)
            await asyncio.wait([self.task], timeout=REPORT_SECONDS)
        if self.task.done():
            self.task.result()
        if told is not None:
            tell(self.total or self.completed, self.total)

    async def watch_to_the_end(self, tell) -> None:
        """Until the blob is in its place."""
        while not self.task.done():
            await self.watch(tell)
            await asyncio.wait([self.task], timeout=REPORT_SECONDS)
        self.task.result()

    # --- parts

    async def _fetch(self) -> None:
        """The first part alone until the answer to it shows that the registry knows ranges; then the others beside
        it.
        """
        queue = deque(part for part in self._partial.parts if not part.is_done)
        self._queue, self._is_answered, self._knows_ranges = queue, asyncio.Event(), False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._work())
                await self._is_answered.wait()
                for _ in range(min(self._limits.parallel - 1, len(queue)) if self._knows_ranges else 0):
                    group.create_task(self._work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _work(self) -> None:
        while self._queue:
            part = self._queue.popleft()
            await self._client.retried(lambda: self._fetch_part(part), lambda: part.completed)
        self._is_answered.set()

    async def _fetch_part(self, part: Part) -> None:
        """One try at what is missing of a part."""
        start, is_whole = part.offset + part.completed, part.size is None or part.size == self.total
        headers = {} if is_whole and start == 0 else {"Range": f"bytes={start}-{part.offset + part.size - 1}"}
        async with self._client.open("GET", self._endpoint.blob_url(self.layer.digest), headers) as response:
            if headers and response.status == 200:
                part = self._start_over(part)
            elif headers and not (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
                raise Passing(
                    f"{response.url.host} gave other bytes than those asked for "
                    f"({response.headers.get('Content-Range')})"
                )
            self._knows_ranges = bool(headers) and response.status == 206
            self._is_answered.set()
            await self._read(response, part)

    def _start_over(self, part: Part) -> Part:
        """The registry gives the whole blob whatever is asked for: from its beginning, as one part."""
        if self._knows_ranges:
            raise Passing(f"{self._endpoint.base.host} did not give the range it was asked for")
        self._queue.clear()
        return self._partial.become_one_part()

    async def _read(self, response: aiohttp.ClientResponse, part: Part) -> None:
        async for piece in response.content.iter_chunked(PIECE_BYTES):
            room = len(piece) if part.size is None else part.size - part.completed
            self._partial.write(part, piece[:room])
            if part.is_done:
                return
        if part.size is None:
            part.size = part.completed
        if not part.is_done:
            raise Passing(f"{response.url.host} ended {part.size - part.completed} bytes too early")


def join(
    store: Store, layer: Layer, endpoint: Endpoint, credentials: Credentials, limits: Limits
) -> tuple[Download, bool]:
    """-> (the download of a blob, whether it was begun for us). Every follower leaves it once."""
    target, is_own = store.blob_path(layer.digest), False
    download = _running.get(target)
    if download is None:
        download, is_own = Download(store, layer, endpoint, credentials, limits), True
        _running[target] = download
    download.num_followers += 1
    return download, is_own


async def leave(download: Download) -> None:
    """Waits for the end of a download that nobody follows any more: then its parts are safe."""
    download.num_followers -= 1
    if not download.num_followers and not download.task.done():
        download.task.cancel()
        if _running.get(download.target) is download:
            del _running[download.target]
        await asyncio.wait([download.task])


async def _to_its_end(work) -> None:
    """Like `await work`, but a cancellation waits for it: a thread cannot be stopped, and must not lose the file it
    works on.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.exception()
        raise
