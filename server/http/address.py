"""OLLAMA_HOST -> the address that the server listens on and clients call.

In: the variable's text. Out: `Address`. Rules of Ollama's envconfig.Host: a scheme picks the default port, brackets
and quotes may be left on, a port that is none becomes the default, and what follows the first slash is a path.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote

from vkbackend import settings

DEFAULT_PORT = "11434"
_SCHEME_PORTS = {"http": "80", "https": "443"}
_PORT = re.compile(r"[+-]?[0-9]+")
# What a host may hold in a URL without being escaped (RFC 3986, sub-delims and the brackets of IPv6).
_HOST_SAFE = "!$&'()*+,;=:[]<>\""
_PATH_SAFE = "/$&+,:;=@"  # what Go's net/url leaves as it is in a path


@dataclass(frozen=True)
class Address:
    """`port` is text as it was written (`080`); `port_number` is what it means."""

    scheme: str
    host: str
    port: str
    path: str = ""

    @property
    def host_port(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def port_number(self) -> int:
        return int(self.port)

    @property
    def url(self) -> str:
        path = f"/{self.path.removeprefix('/')}" if self.path else ""
        return f"{self.scheme}://{quote(self.host_port, safe=_HOST_SAFE)}{quote(path, safe=_PATH_SAFE)}"

    @property
    def bare_host(self) -> str:
        """The host; of an IPv4 address written as an IPv6 one, the IPv4 address."""
        address = as_ip_address(self.host)
        return self.host if address is None or address.version == 6 else str(address)

    @property
    def is_wildcard(self) -> bool:
        """Whether a server there listens on every address of this machine."""
        address = as_ip_address(self.host)
        return address.is_unspecified if address is not None else self.host == ""

    @property
    def is_local(self) -> bool:
        """Whether a server there would be one on this machine."""
        address = as_ip_address(self.host)
        return self.is_wildcard or (address.is_loopback if address is not None else self.host == "localhost")

    @property
    def for_clients(self) -> "Address":
        """Where a client reaches a server that listens here: every interface becomes the loopback one."""
        if not self.is_wildcard:
            return self
        return Address(self.scheme, "::1" if self.host == "::" else "127.0.0.1", self.port, self.path)


def from_environment() -> Address:
    return parse(settings.get("OLLAMA_HOST"))


def parse(text: str) -> Address:
    """Any text gives an address; what cannot be read falls back to the default's part."""
    text = text.strip().strip("\"'").strip()
    if text == "ollama.com":
        return Address("https", "ollama.com", "443")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    default_port = _SCHEME_PORTS.get(scheme, DEFAULT_PORT) if separator else DEFAULT_PORT
    host_port, _, path = rest.partition("/")
    try:
        host, port = split_host_port(host_port)
    except ValueError:
        host, port = _bare_host(host_port), default_port
    if not _PORT.fullmatch(port) or not 0 <= int(port) <= 65535:
        port = default_port
    return Address(scheme, host, port, path)


def as_ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for what is no address. An IPv4 address written as an IPv6 one (`::ffff:127.0.0.1`) is the IPv4 address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _bare_host(text: str) -> str:
    address = as_ip_address(text.strip("[]"))
    return str(address) if address is not None else text or "127.0.0.1"


def split_host_port(text: str) -> tuple[str, str]:
    """`host:port`, `[ipv6]:port` -> (host, port). Raises ValueError where a part is missing or doubtful (Go's
    net.SplitHostPort).
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
