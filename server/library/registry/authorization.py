"""Who we are to a registry: the answer to its 401.

In: a `WWW-Authenticate` header. Out: the value of an `Authorization` header. A Bearer token is fetched from where
the header says; the request for it is signed with the ed25519 key of ~/.ollama/id_ed25519, made on first use, as
Ollama makes it. Keys and passwords speak only to the registry that was named and to the known token servers beside
it: a registry that sends us elsewhere gets a token for nobody in particular.
"""

import base64
import hashlib
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from yarl import URL

from vkbackend import settings

from .errors import RegistryError

_FIELD = re.compile(r'(\w+)="([^"]*)"')
_TOKEN_HOSTS = {
    "registry.ollama.ai": {"ollama.com", "ollama.ai", "registry.ollama.com"}
}  # registry -> where else its tokens come from


@dataclass(frozen=True)
class Challenge:
    scheme: str  # bearer, basic
    realm: str
    service: str
    scopes: tuple[str, ...]


def parse(header: str) -> Challenge:
    scheme, _, rest = header.strip().partition(" ")
    fields = dict(_FIELD.findall(rest))
    return Challenge(
        scheme.lower(), fields.get("realm", ""), fields.get("service", ""), tuple(fields.get("scope", "").split())
    )


def may_know_us(realm: URL, registry: URL) -> bool:
    """Whether what proves who we are may be sent to `realm` on the word of `registry`."""
    if realm.scheme != "https" and registry.scheme == "https":
        return False
    return (
        (realm.host, realm.port) == (registry.host, registry.port)
        or realm.scheme == "https"
        and realm.host in _TOKEN_HOSTS.get(registry.host, ())
    )


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def token_request(challenge: Challenge, registry: URL, username: str, password: str) -> tuple[URL, dict[str, str]]:
    """-> the URL of a token, and headers for it. Raises RegistryError."""
    try:
        realm = URL(challenge.realm)
    except ValueError:
        realm = URL("")
    if realm.scheme not in ("http", "https") or not realm.host:
        raise RegistryError(f"{registry.host} wants a token, but says not from where (realm {challenge.realm!r})")
    query = [("scope", scope) for scope in challenge.scopes] + [("service", challenge.service)]
    if not may_know_us(realm, registry):
        return realm.extend_query(query), {}
    if username:
        return realm.extend_query(query), {"Authorization": basic(username, password)}
    query += [("nonce", secrets.token_urlsafe(16)), ("ts", str(int(time.time())))]
    separator = "&" if realm.raw_query_string else "?"
    url = f"{realm}{separator}{urlencode(sorted(query))}"  # signed as it is sent, to the letter
    return URL(url, encoded=True), {"Authorization": _signed(f"GET,{url},")}


def _signed(request: str) -> str:
    """`key:signature` of a request's method and URL and the digest of its (empty) body."""
    key = _key()
    nothing = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
    signature = base64.b64encode(key.sign((request + nothing).encode())).decode()
    return f"{_public_text(key).split()[1]}:{signature}"


def public_key() -> str:
    """`ssh-ed25519 AAAA...`, what a user adds to an account."""
    return _public_text(_key())


def _public_text(key) -> str:
    from cryptography.hazmat.primitives import serialization

    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _key():
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    path = settings.home_folder() / ".ollama" / "id_ed25519"
    try:
        if not path.exists():
            key = ed25519.Ed25519PrivateKey.generate()
            if _write_new(
                path,
                key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
                ),
            ):
                path.with_suffix(".pub").write_text(_public_text(key) + "\n")
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise RegistryError(
            f"the key {path} cannot be read or made ({error.strerror}); a registry asks who we are"
        ) from None
    except (ValueError, TypeError) as error:
        raise RegistryError(
            f"the key {path} cannot be used ({error}); it must be an ed25519 key of OpenSSH's, without a passphrase"
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise RegistryError(f"the key {path} is no ed25519 key; move it away to have a new one made")
    return key


def _write_new(path: Path, contents: bytes) -> bool:
    """Whole and for its owner only. False where another process has put one there in the meantime, which stays."""
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
