"""Models from and to a registry, by the registry protocol of Docker (v2).

    pull(store, "hf.co/user/model:Q4_K_M", report)      push(store, "namespace/model", report)

In: a store and a name as a user writes it. Out: blobs and a manifest in the store, or in the registry;
`report(status, digest, total, completed)` tells how far it is. Both block, and may be called from any thread: the
work itself runs on one event loop (background.py), so that pulls of the same blob share its download.
`is_cancelled()` is asked five times a second; a pull that ends early keeps its parts.
"""

from collections.abc import Callable

from . import background
from .client import Credentials
from .errors import Cancelled, RegistryError
from .limits import DEFAULT, Limits
from .pulling import pull_model
from .pushing import push_model

__all__ = ["Cancelled", "Credentials", "Limits", "RegistryError", "pull", "push"]


def never() -> bool:
    return False


def pull(
    store,
    name: str,
    report,
    insecure: bool = False,
    is_cancelled: Callable[[], bool] = never,
    credentials: Credentials = Credentials(),
    limits: Limits = DEFAULT,
) -> None:
    """Raises RegistryError, InvalidName, StoreError; Cancelled once `is_cancelled()` says so."""
    background.run(pull_model(store, name, report, insecure, credentials, limits), is_cancelled)


def push(
    store,
    name: str,
    report,
    insecure: bool = False,
    is_cancelled: Callable[[], bool] = never,
    credentials: Credentials = Credentials(),
    limits: Limits = DEFAULT,
) -> None:
    """Raises RegistryError, InvalidName, ModelNotFound, StoreError; Cancelled once `is_cancelled()` says so."""
    background.run(push_model(store, name, report, insecure, credentials, limits), is_cancelled)
