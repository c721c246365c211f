"""Clean paths: redirects requests for `//a`, `/./a` and `/b/../a` to `/a`, as Go's ServeMux does.

In: the target of a request as its client wrote it. Out: the target of the redirect, always a path on this server.
"""

import posixpath
import re
from urllib.parse import quote

MOST_COST = 1 << 25  # of looking a path up, in copied bytes: about 20 ms
_UNCLEAN = re.compile(r"//|/\.\.?(?:/|$)")
# RFC 3986's characters of a path. Not the backslash: browsers read it as a slash, and two slashes begin a host.
_SAFE = "/%:@!$&'()*+,;=~"


def split(target: str) -> tuple[str, str]:
    """`/path?query`, `http://host/path?query` -> (path, "?query"). The path is not decoded."""
    if not target.startswith("/"):
        target = "/" + target.partition("://")[2].partition("/")[2]
    path, mark, query = target.partition("?")
    return path, mark + query


def authority(target: str) -> str:
    """`host:port` of `http://host:port/path`, empty for `/path`."""
    return "" if target.startswith("/") else target.partition("://")[2].partition("/")[0].partition("?")[0]


def is_too_deep(target: str) -> bool:
    """Whether finding the route would take long: aiohttp copies the path once for each of its segments."""
    path = split(target)[0]
    return len(path) * path.count("/") > MOST_COST


def cleaned(target: str) -> str | None:
    """The target with a clean path and the same query; None if the path is clean already."""
    path, query = split(target)
    if not _UNCLEAN.search(path):
        return None
    clean = "/" + posixpath.normpath(path).lstrip("/")
    if path.endswith("/") and clean != "/":
        clean += "/"
    return escaped(clean) + query


def without_slash(target: str) -> str | None:
    """The target without the slash at the end of its path; None if there is none."""
    path, query = split(target)
    return escaped(path[:-1]) + query if path.endswith("/") and path != "/" else None


def escaped(path: str) -> str:
    """The path as a Location header can hold it."""
    return quote(path.encode("utf-8", "surrogateescape"), safe=_SAFE)
