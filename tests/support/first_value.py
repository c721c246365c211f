"""The first JSON value of some bytes, to look at after parsing: `decode.parsed` frees it when its block ends."""

from vkbackend.server.go import decode


def parse_first(body: bytes) -> decode.JSONValue:
    """The first value of `body`. Raises JSONSyntaxError."""
    return decode._Parser(body).first()
