"""Pulls and pushes models by Docker's registry protocol (v2).

    pull(store, "hf.co/user/model:Q4_K_M", report)      push(store, "namespace/model", report)

In: a store and a name as a user writes it. Out: blobs and a manifest in the store, or in the registry;
`report(status, digest, total, completed)` receives the progress. Both block, and may be called from any thread: the
work runs on one event loop (background.py), so that pulls of the same blob share its download. `is_cancelled()` is
called five times a second; an interrupted pull keeps its parts.
"""

from collections.abc import Callable

from ..create import Report
from ..store import Store
from . import background
from .client import Credentials
from .errors import Cancelled, RegistryError
from .limits import DEFAULT, TransferLimits
from .pulling import pull_model
from .pushing import push_model

__all__ = ["Cancelled", "Credentials", "RegistryError", "TransferLimits", "pull", "push"]


NO_CREDENTIALS = Credentials()


def never() -> bool:
    """`is_cancelled` of work that nobody cancels."""
    return False


def pull(
    store: Store,
    name: str,
    report: Report,
    insecure: bool = False,
    is_cancelled: Callable[[], bool] = never,
    credentials: Credentials = NO_CREDENTIALS,
    limits: TransferLimits = DEFAULT,
) -> None:
    """Pull a model. Raises RegistryError, InvalidName, StoreError, and Cancelled once `is_cancelled()`."""
    background.run(pull_model(store, name, report, insecure, credentials, limits), is_cancelled)


def push(
    store: Store,
    name: str,
    report: Report,
    insecure: bool = False,
    is_cancelled: Callable[[], bool] = never,
    credentials: Credentials = NO_CREDENTIALS,
    limits: TransferLimits = DEFAULT,
) -> None:
    """Push a model. Raises RegistryError, InvalidName, ModelNotFound, StoreError; Cancelled once `is_cancelled()`."""
    background.run(push_model(store, name, report, insecure, credentials, limits), is_cancelled)
