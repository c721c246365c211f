"""Authorization for a registry that answers 401.

In: a `WWW-Authenticate` header. Out: what a request to the token server needs. The header says where to fetch a Bearer
token; the request for it is signed with the ed25519 key of ~/.ollama/id_ed25519, created on first use, like Ollama's.
The signature or password is sent only to the registry that the user named and to its known token servers: if a
registry refers to any other server, the token is requested anonymously.
"""

import base64
import hashlib
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from yarl import URL

from vkbackend import settings

from .errors import RegistryError

if TYPE_CHECKING:  # imported on use: slow to import
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_FIELD = re.compile(r'(\w+)="([^"]*)"')
# Registry -> other hosts that issue its tokens.
_TOKEN_HOSTS = {"registry.ollama.ai": {"ollama.com", "ollama.ai", "registry.ollama.com"}}


@dataclass(frozen=True)
class Challenge:
    """Contents of a `WWW-Authenticate` header; scheme: "bearer" or "basic"."""

    scheme: str
    realm: str
    service: str
    scopes: tuple[str, ...]


def parse_challenge(header: str) -> Challenge:
    """Parse a `WWW-Authenticate` header."""
    scheme, _, rest = header.strip().partition(" ")
    fields = dict(_FIELD.findall(rest))
    return Challenge(
        scheme.lower(), fields.get("realm", ""), fields.get("service", ""), tuple(fields.get("scope", "").split())
    )


def is_trusted(realm: URL, registry: URL) -> bool:
    """Whether credentials for `registry` may be sent to its token server `realm`."""
    if realm.scheme != "https" and registry.scheme == "https":
        return False
    is_same = (realm.host, realm.port) == (registry.host, registry.port)
    return is_same or realm.scheme == "https" and realm.host in _TOKEN_HOSTS.get(registry.host or "", ())


def basic(username: str, password: str) -> str:
    """Value of an `Authorization` header with username and password."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def token_request(challenge: Challenge, registry: URL, username: str, password: str) -> tuple[URL, dict[str, str]]:
    """(URL, headers) of the request for a token. Raises RegistryError."""
    try:
        realm = URL(challenge.realm)
    except ValueError:
        realm = URL("")
    if realm.scheme not in ("http", "https") or not realm.host:
        raise RegistryError(
            f"{registry.host} requires a token, but gives no valid URL for it (realm {challenge.realm!r})"
        )
    query = [("scope", scope) for scope in challenge.scopes] + [("service", challenge.service)]
    if not is_trusted(realm, registry):
        return realm.extend_query(query), {}
    if username:
        return realm.extend_query(query), {"Authorization": basic(username, password)}
    query += [("nonce", secrets.token_urlsafe(16)), ("ts", str(int(time.time())))]
    separator = "&" if realm.raw_query_string else "?"
    url = f"{realm}{separator}{urlencode(sorted(query))}"  # the signature covers the URL exactly as sent
    return URL(url, encoded=True), {"Authorization": _signed(f"GET,{url},")}


def _signed(request: str) -> str:
    """`key:signature` of a request's method and URL and the digest of its empty body."""
    key = _key()
    empty_digest = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
    signature = base64.b64encode(key.sign((request + empty_digest).encode())).decode()
    return f"{_public_text(key).split()[1]}:{signature}"


def public_key() -> str:
    """`ssh-ed25519 AAAA...`, to be added to an account of the registry."""
    return _public_text(_key())


def _public_text(key: "Ed25519PrivateKey") -> str:
    from cryptography.hazmat.primitives import serialization

    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _key() -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    path = settings.home_folder() / ".ollama" / "id_ed25519"
    try:
        if not path.exists():
            new = ed25519.Ed25519PrivateKey.generate()
            contents = new.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
            if _write_new(path, contents):
                path.with_suffix(".pub").write_text(_public_text(new) + "\n")
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise RegistryError(
            f"cannot read or create the key {path} ({error.strerror}), which a registry requires"
        ) from None
    except (ValueError, TypeError) as error:
        raise RegistryError(
            f"cannot use the key {path} ({error}); it must be an OpenSSH ed25519 key without a passphrase"
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise RegistryError(f"the key {path} is not an ed25519 key; move it away, and a new one will be created")
    return key


def _write_new(path: Path, contents: bytes) -> bool:
    """Write a file atomically, readable by its owner only.

    Returns False, keeping the existing file, if another process has created it in the meantime.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(contents)
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
