"""Limits on the contents of a request, VKBACKEND_MAX_IMAGES among them; docs/limits.md lists all limits."""

from collections.abc import Iterator

from vkbackend import settings

from ..errors import ApiError

MAX_MESSAGES = 10_000
MAX_CONTEXT = (1 << 31) - 1  # tokens to plan memory for: positions are int32
MAX_TOOLS = 1_024
MAX_STOPS = 256  # they are searched for after every token
MAX_STOP_CHARS = 1_024
MAX_FORMAT_CHARS = 256 << 10  # some seconds to compile
MAX_TEMPLATE_CHARS = 100_000
MAX_INPUTS = 10_000  # texts to embed
MAX_BIASES = 10_000  # of logit_bias: some milliseconds for each token
MAX_FILES = 10_000  # of a model to create
MAX_LICENSES = 100


def check(ask: object) -> None:
    """Check any request of `wire/`. Raises ApiError 400 that names what is too large, its size and the limit.

    For a large request this is called in a thread, right after its body was read.
    """
    for what, size, most in _sizes(ask):
        if size > most:
            raise ApiError(400, f"the request holds {size} {what}, and this server takes {most}; send fewer")
    holders = [*_items(ask, "messages"), ask]
    count = sum(len(getattr(holder, "images", None) or ()) for holder in holders)
    most = settings.get("VKBACKEND_MAX_IMAGES")
    if count > most:
        raise ApiError(
            400,
            f"the request holds {count} images, and this server takes {most}; send fewer, or raise "
            f"VKBACKEND_MAX_IMAGES",
        )


def _sizes(ask: object) -> Iterator[tuple[str, int, int]]:
    """(name, size in the request, limit) of each limited thing."""
    options = getattr(ask, "options", None) or {}
    stops = options.get("stop") or getattr(ask, "stop", None)
    stops = [stop for stop in stops if isinstance(stop, str)] if isinstance(stops, list) else []
    biases = options.get("logit_bias") or getattr(ask, "logit_bias", None)
    yield "messages", len(_items(ask, "messages")), MAX_MESSAGES
    yield "tools", len(_items(ask, "tools")), MAX_TOOLS
    yield "inputs", len(_items(ask, "input")), MAX_INPUTS
    yield "stop strings", len(stops), MAX_STOPS
    yield "characters in one stop string", max(map(len, stops), default=0), MAX_STOP_CHARS
    yield "biases", len(biases) if isinstance(biases, dict) else 0, MAX_BIASES
    yield "characters of format", len(getattr(ask, "format", None) or ""), MAX_FORMAT_CHARS
    yield "characters of template", len(getattr(ask, "template", "")), MAX_TEMPLATE_CHARS
    yield "files", len(getattr(ask, "files", None) or ()) + len(getattr(ask, "adapters", None) or ()), MAX_FILES
    yield "licenses", len(_items(ask, "license")), MAX_LICENSES


def _items(ask: object, name: str) -> list:
    """A field's list; empty if the request has no such field or it is not a list."""
    value = getattr(ask, name, None)
    return value if isinstance(value, list) else []
