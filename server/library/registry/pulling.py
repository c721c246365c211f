"""Pulls a model: its manifest, then the missing blobs, and only at the end the manifest's file in the store."""

from functools import partial

from ... import pools
from ..create import Report
from ..model import MANIFEST_TYPE, Layer
from ..store import Store
from . import manifest
from .client import Credentials, RegistryClient, read_at_most
from .download import join, leave
from .endpoint import Endpoint, resolve
from .errors import Refused, RegistryError
from .limits import TransferLimits
from .partial import check_room, folder_of, num_present, remove_stale

MAX_ROUNDS = 3  # of downloading blobs, which other programs may delete in the meantime


async def pull_model(
    store: Store, text: str, report: Report, insecure: bool, credentials: Credentials, limits: TransferLimits
) -> None:
    """Pull the model called `text`. Raises RegistryError, InvalidName and StoreError."""
    endpoint = resolve(text, insecure)
    report("pulling manifest")
    contents = await _manifest(endpoint, credentials, limits)
    config, layers = manifest.read_manifest(contents, endpoint.name.shortest)
    wanted = list({layer.digest: layer for layer in [*layers, config] if layer.digest}.values())
    await pools.run_to_end("registry", _prepare, store, wanted)
    for _ in range(MAX_ROUNDS):
        await _fetch(store, wanted, endpoint, report, credentials, limits)
        report("writing manifest")
        if await pools.run_to_end("registry", _write, store, endpoint, contents, wanted):
            report("success")
            return
    raise RegistryError(
        f"blobs of {endpoint.name.shortest} disappear from {store.blobs} during the pull; is another program "
        "deleting them?"
    )


async def _manifest(endpoint: Endpoint, credentials: Credentials, limits: TransferLimits) -> bytes:
    async with RegistryClient(endpoint, credentials, limits) as client:

        async def attempt() -> bytes:
            async with client.open("GET", endpoint.manifest_url, {"Accept": MANIFEST_TYPE}) as response:
                return await read_at_most(response, manifest.MAX_BYTES)

        try:
            return await client.retried(attempt, is_first=True)
        except Refused as error:
            if error.status == 404:
                raise RegistryError(
                    f"pull model manifest: file does not exist: {endpoint.base.host} has no "
                    f"{endpoint.name.shortest}; check its name and tag"
                ) from None
            raise RegistryError(f"pull model manifest: {error}") from None
        except RegistryError as error:
            raise RegistryError(f"pull model manifest: {error}") from None


def _prepare(store: Store, wanted: list[Layer]) -> None:
    """Remove remains of old pulls, and check that there is room."""
    blobs = store.blobs
    folder = folder_of(store)
    remove_stale(folder)
    missing = sum(
        max(layer.size - num_present(folder, layer.digest), 0) for layer in wanted if not _is_there(store, layer)
    )
    check_room(blobs, missing)


def _is_there(store: Store, layer: Layer) -> bool:
    """Whether a blob exists. Only its size is checked: its digest was verified when it was added."""
    try:
        size = store.blob_path(layer.digest).stat().st_size
    except OSError:
        return False
    return size == layer.size or not layer.size


async def _fetch(
    store: Store,
    wanted: list[Layer],
    endpoint: Endpoint,
    report: Report,
    credentials: Credentials,
    limits: TransferLimits,
) -> None:
    """Download one blob after the other; then wait for their digest checks."""
    followed = []
    fetched = []
    try:
        for layer in wanted:
            tell = partial(_tell, report, layer)
            if _is_there(store, layer):
                tell(store.blob_path(layer.digest).stat().st_size, layer.size)
                continue
            is_own = False
            while not is_own:
                download, is_own = join(store, layer, endpoint, credentials, limits)
                followed.append(download)
                try:
                    await download.watch(tell)
                    fetched.append((download, tell))
                    break
                except RegistryError:
                    if is_own:
                        raise  # otherwise the registry of another pull has failed: try our own
        report("verifying sha256 digest")
        for download, tell in fetched:
            await download.watch_to_the_end(tell)
    finally:
        for download in followed:
            await leave(download)


def _tell(report: Report, layer: Layer, completed: int, total: int) -> None:
    report(f"pulling {layer.digest[7:19]}", layer.digest, total or layer.size, completed)


def _write(store: Store, endpoint: Endpoint, contents: bytes, wanted: list[Layer]) -> bool:
    """Write the manifest; False if blobs have disappeared, for example with a deleted model that shared them."""
    with store.lock:
        if not all(_is_there(store, layer) for layer in wanted):
            return False
        store.write_manifest_bytes(store.existing_name(endpoint.name), contents)
    return all(_is_there(store, layer) for layer in wanted)
