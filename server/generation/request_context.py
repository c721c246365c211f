"""The surroundings of a request, passed down by its route, so that `generation/` knows neither HTTP nor the
application.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..library.store import Store
from ..loading.loaded_models import LoadedModels


class Lines(Protocol):
    """A stream of JSON lines to the client."""

    @property
    def is_behind(self) -> bool:
        """Whether earlier lines still wait for the client to read them."""
        ...

    async def write(self, line: object) -> None:
        """Send a dataclass or dict as one line."""
        ...


@dataclass(frozen=True)
class RequestContext:
    """The surroundings of one request. client_left: whether the client has closed its connection. started:
    time.monotonic() when the request arrived. lines: where lines of progress go while the model is loaded; None sends
    none.
    """

    store: Store
    loaded_models: LoadedModels
    client_left: Callable[[], bool]
    started: float
    lines: Lines | None = None
