"""The surroundings of a request, passed down by its route, so that `generation/` knows neither HTTP nor the
application.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..http.line_stream import LineStream
from ..library.store import Store
from ..loading.loaded_models import LoadedModels


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
    lines: LineStream | None = None
