"""Access rules: the Host header (against DNS rebinding) and the Origin header (CORS).

In: hosts and origins as text, and the address the server listens on. Out: whether they are allowed, and headers of
CORS answers. Follows Ollama: the Host matters only on a loopback address; a forbidden origin gets status 403 whatever
the method.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass

from vkbackend import settings

from .address import IPAddress, as_ip_address, split_host_port

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0")
_APP_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_LOCAL_DOMAINS = (".localhost", ".local", ".internal")
ALLOWED_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
ALLOWED_HEADERS = ",".join(
    ["Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With", "Openai-Beta"]
    + [
        f"X-Stainless-{name}"
        for name in (
            "Arch",
            "Async",
            "Custom-Poll-Interval",
            "Helper-Method",
            "Lang",
            "Os",
            "Package-Version",
            "Poll-Helper",
            "Retry-Count",
            "Runtime",
            "Runtime-Version",
            "Timeout",
        )
    ]
)
PREFLIGHT_SECONDS = 43200
_HOST_HEADER = re.compile(r"[A-Za-z0-9!$%&'()*+,.:;=\[\]_~-]{0,1024}")  # what Go's net/http accepts


def allowed_origins(extra: str | None = None) -> list[str]:
    """The origins of OLLAMA_ORIGINS (or `extra`), local pages and desktop applications. `*` stands for any text."""
    text: str = settings.get("OLLAMA_ORIGINS") if extra is None else extra
    text = text.strip().strip("\"'")
    origins = text.split(",") if text else []
    for host in _LOCAL_HOSTS:
        origins += [f"http://{host}", f"https://{host}", f"http://{host}:*", f"https://{host}:*"]
    return origins + [f"{scheme}://*" for scheme in _APP_SCHEMES]


@dataclass
class AccessRules:
    """listen_address: an IP address as text; None if Hosts are not checked (a Unix socket, a test)."""

    listen_address: str | None
    origins: list[str]

    @property
    def checks_hosts(self) -> bool:
        """Whether the Host header matters: the server listens on a loopback address, or might."""
        try:
            return self.listen_address is not None and ipaddress.ip_address(self.listen_address).is_loopback
        except ValueError:
            # A name: "localhost" is a loopback address, and any other name might be.
            return True

    def allows_host(self, header: str) -> bool:
        """Whether a request with this Host header is answered."""
        if not self.checks_hosts:
            return True
        return _is_local_address(_without_port(header)) or self.names_this_machine(header)

    def names_this_machine(self, header: str) -> bool:
        """Whether the header has a name of this machine, not an address."""
        host = _without_port(header).lower()
        return host in ("", "localhost", socket.gethostname().lower()) or host.endswith(_LOCAL_DOMAINS)

    @property
    def allows_all_origins(self) -> bool:
        """Whether one of the rules is `*`."""
        return "*" in (origin.strip() for origin in self.origins)

    def allows_origin(self, origin: str) -> bool:
        """Whether a page of this origin may call."""
        return self.allows_all_origins or any(_matches(rule.strip(), origin) for rule in self.origins)


def is_host_header(text: str) -> bool:
    """Whether the text holds only characters that a host and port can have."""
    return _HOST_HEADER.fullmatch(text) is not None


def is_same_origin(origin: str, host: str) -> bool:
    """Whether the request comes from a page of this server."""
    return origin in (f"http://{host}", f"https://{host}")


def _matches(rule: str, origin: str) -> bool:
    before, star, after = rule.partition("*")
    if not star:
        return rule.lower() == origin.lower() and rule != ""
    return len(origin) >= len(before) + len(after) and origin.startswith(before) and origin.endswith(after)


def _without_port(header: str) -> str:
    """`[::1]:80` -> `::1`, `host:80` -> `host`; any other form stays unchanged, and is then not an address."""
    try:
        return split_host_port(header)[0]
    except ValueError:
        return header


def _is_local_address(host: str) -> bool:
    address = as_ip_address(host)
    if address is None:
        return False
    return address.is_loopback or address.is_unspecified or _is_private(address) or _is_own(address)


_PRIVATE = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]


def _is_private(address: IPAddress) -> bool:
    return any(address in network for network in _PRIVATE if network.version == address.version)


def _is_own(address: IPAddress) -> bool:
    """Whether an interface of this machine has the address: only then can a socket be bound to it. Multicast and
    broadcast addresses, which can be bound too, do not count.
    """
    if address.is_multicast or str(address) == "255.255.255.255":
        return False
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
            return True
    except OSError:
        return False
