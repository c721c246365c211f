"""What the OpenAPI document says about a route: a summary, its request and answer, and how it streams."""

from collections.abc import Mapping
from dataclasses import dataclass, field

NDJSON, EVENTS, TEXT, HTML = "application/x-ndjson", "text/event-stream", "text/plain", "text/html"


@dataclass(frozen=True)
class Operation:
    """One route in the OpenAPI document.

    request, answer: dataclasses, media types of bodies other than JSON, None for no body; answer may be a schema.
    stream: media type of the streamed form, chunk: class of its objects (None: `answer`).
    streams_by_default: whether a request without `stream` streams, as in the native API.
    early: class of objects that may precede the chunks.
    parameters: path parameter to its description and pattern.
    status: status of success.
    """

    summary: str
    request: type | str | None = None
    answer: type | str | dict | None = None
    stream: str = ""
    chunk: type | None = None
    early: type | None = None
    streams_by_default: bool = True
    parameters: dict[str, tuple[str, str]] = field(default_factory=dict)
    status: int = 200
    tag: str = "models"


Operations = Mapping[tuple[str, str], Operation]  # by method and path
