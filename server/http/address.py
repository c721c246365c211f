"""The address that the server listens on and clients call, from OLLAMA_HOST.

In: the variable's text. Out: `Address`. Follows Ollama's envconfig.Host: the scheme selects the default port, brackets
and quotes are allowed, an invalid port becomes the default, and everything after the first slash is a path.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote

from vkbackend import settings

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_PORT = "11434"
_SCHEME_PORTS = {"http": "80", "https": "443"}
_PORT = re.compile(r"[+-]?[0-9]+")
# Characters of a host that a URL does not escape (RFC 3986: sub-delims and the brackets of IPv6).
_HOST_SAFE = "!$&'()*+,;=:[]<>\""
_PATH_SAFE = "/$&+,:;=@"  # characters of a path that Go's net/url does not escape


@dataclass(frozen=True)
class Address:
    """port: text as it was written (`080`); `port_number` is its value."""

    scheme: str
    host: str
    port: str
    path: str = ""

    @property
    def host_port(self) -> str:
        """HOST:PORT as in a URL, IPv6 addresses in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def port_number(self) -> int:
        """The port as a number."""
        return int(self.port)

    @property
    def url(self) -> str:
        """The address as a URL, percent-encoded, without a slash at the end unless `path` has one."""
        path = f"/{self.path.removeprefix('/')}" if self.path else ""
        return f"{self.scheme}://{quote(self.host_port, safe=_HOST_SAFE)}{quote(path, safe=_PATH_SAFE)}"

    @property
    def bare_host(self) -> str:
        """The host; for an IPv4 address written as an IPv6 one, the IPv4 address."""
        address = as_ip_address(self.host)
        return self.host if address is None or address.version == 6 else str(address)

    @property
    def is_wildcard(self) -> bool:
        """Whether a server there listens on every address of this machine."""
        address = as_ip_address(self.host)
        return address.is_unspecified if address is not None else self.host == ""

    @property
    def is_local(self) -> bool:
        """Whether a server there would be on this machine."""
        address = as_ip_address(self.host)
        return self.is_wildcard or (address.is_loopback if address is not None else self.host == "localhost")

    @property
    def for_clients(self) -> "Address":
        """Where a client reaches a server that listens here: the wildcard address becomes the loopback one."""
        if not self.is_wildcard:
            return self
        return Address(self.scheme, "::1" if self.host == "::" else "127.0.0.1", self.port, self.path)


def from_environment() -> Address:
    """The address of OLLAMA_HOST."""
    return parse(settings.get("OLLAMA_HOST"))


def parse(text: str) -> Address:
    """The address that a text means. Never fails: a part that cannot be read becomes the default's."""
    text = text.strip().strip("\"'").strip()
    if text == "ollama.com":
        return Address("https", "ollama.com", "443")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme = "http"
        rest = text
    default_port = _SCHEME_PORTS.get(scheme, DEFAULT_PORT) if separator else DEFAULT_PORT
    host_port, _, path = rest.partition("/")
    try:
        host, port = split_host_port(host_port)
    except ValueError:
        host = _bare_host(host_port)
        port = default_port
    if not _PORT.fullmatch(port) or not 0 <= int(port) <= 65535:
        port = default_port
    return Address(scheme, host, port, path)


def as_ip_address(text: str) -> IPAddress | None:
    """The IP address, None if the text is not one. `::ffff:127.0.0.1` is the IPv4 address 127.0.0.1."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _bare_host(text: str) -> str:
    address = as_ip_address(text.strip("[]"))
    return str(address) if address is not None else text or "127.0.0.1"


def split_host_port(text: str) -> tuple[str, str]:
    """`host:port`, `[ipv6]:port` -> (host, port), as Go's net.SplitHostPort. Raises ValueError if a part is missing or
    ambiguous.
    """
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or not port.startswith(":") or ":" in port[1:] or "[" in host:
            raise ValueError(text)
        port = port[1:]
    else:
        host, colon, port = text.rpartition(":")
        if not colon or ":" in host:
            raise ValueError(text)
    if any(bracket in port or (bracket in host and not text.startswith("[")) for bracket in "[]"):
        raise ValueError(text)
    return host, port
