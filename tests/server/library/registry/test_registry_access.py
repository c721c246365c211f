"""Access to a registry: tokens, keys and passwords."""

import base64
import os
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_ssh_public_key
from fault_proxy import Answer
from registry_world import guarded, is_there, name, pull, push
from yarl import URL

from vkbackend.server.library import registry
from vkbackend.server.library.registry import authorization


def is_signed(host: str):
    """Whether a request for a token has a valid signature of its method and URL by the key in it."""

    def allowed(seen):
        key, _, signature = seen.headers.get("Authorization", "").partition(":")
        signed = (
            f"GET,http://{host}{seen.path},"
            + base64.b64encode(b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855").decode()
        )
        load_ssh_public_key(f"ssh-ed25519 {key}".encode()).verify(base64.b64decode(signature), signed.encode())
        query = URL(seen.path).query
        assert query["service"] == "registry" and query.getall("scope") == [
            "repository:library/m:pull",
            "repository:library/m:push",
        ]
        assert len(query["nonce"]) >= 20 and query["ts"].isdecimal()
        return True

    return allowed


def test_a_token_is_fetched_with_the_key_of_this_machine(hosts, store, tmp_path):
    host, _ = hosts
    host.fault = guarded(f"http://{host.host}/token", is_signed(host.host))
    pull(store, name(host))
    assert is_there(store, host)
    key = tmp_path / "home" / ".ollama" / "id_ed25519"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    made = key.read_bytes()
    assert key.with_suffix(".pub").read_text().strip() == authorization.public_key()
    shown = (
        subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, text=True) if _has_ssh_keygen() else None
    )
    assert shown is None or shown.stdout.split()[:2] == authorization.public_key().split()
    push(store, name(host))
    assert key.read_bytes() == made  # the same key from now on


def _has_ssh_keygen() -> bool:
    return any(
        os.access(os.path.join(folder, "ssh-keygen"), os.X_OK) for folder in os.environ["PATH"].split(os.pathsep)
    )


def test_an_expired_token_is_replaced(hosts, store):
    host, _ = hosts
    inner = guarded(f"http://{host.host}/token")

    def fault(seen):
        expired = seen.kind == "GET blobs" and seen.number == 3
        return Answer(401, {"WWW-Authenticate": f'Bearer realm="http://{host.host}/token"'}) if expired else inner(seen)

    host.fault = fault
    pull(store, name(host))
    assert is_there(store, host)
    assert (
        len([seen for seen in host.seen if seen.path.startswith("/token")]) == 5
    )  # for the manifest, three blobs, and the one that expired


def test_an_unauthorized_user_is_shown_the_key(hosts, store):
    host, _ = hosts
    host.fault = guarded(f"http://{host.host}/token", lambda seen: False)
    with pytest.raises(registry.RegistryError, match="pull model manifest: unauthorized: .*who are you"):
        pull(store, name(host))
    host.forget()
    pull(store, name(host))
    host.fault = guarded(f"http://{host.host}/token", lambda seen: False)
    with pytest.raises(registry.RegistryError, match="unauthorized: .*add this machine's key to it: ssh-ed25519 AAAA"):
        push(store, name(host))


def test_a_registry_that_sends_us_to_another_host_learns_nothing_of_us(hosts, store, tmp_path):
    """Otherwise it could obtain one of our tokens there, and use it."""
    host, elsewhere = hosts
    host.fault = elsewhere.fault = guarded(f"http://{elsewhere.host}/token")
    pull(store, name(host), credentials=registry.Credentials("me", "secret"))
    assert is_there(store, host)
    assert elsewhere.seen and all("Authorization" not in seen.headers for seen in elsewhere.seen)
    assert not (tmp_path / "home" / ".ollama").exists()


@pytest.mark.parametrize(
    "realm, known",
    [
        ("https://registry.ollama.ai/token", True),
        ("https://ollama.com/token", True),
        ("http://ollama.com/token", False),
        ("http://registry.ollama.ai/token", False),
        ("https://ollama.com.evil.org/token", False),
        ("https://evil.org/ollama.com", False),
    ],
)
def test_where_a_key_may_be_shown(realm, known):
    assert authorization.is_trusted(URL(realm), URL("https://registry.ollama.ai")) == known


@pytest.mark.parametrize(
    "challenge",
    [
        "",
        "Bearer",
        'Bearer realm=""',
        'Bearer realm="file:///etc/passwd"',
        'Bearer realm="http://["',
        "Basic realm=x",
        "Digest x",
    ],
)
def test_challenges_that_nobody_can_answer(hosts, store, challenge):
    host, _ = hosts
    host.fault = lambda seen: Answer(401, {"WWW-Authenticate": challenge})
    with pytest.raises(registry.RegistryError):
        pull(store, name(host))


def test_a_token_server_that_is_nowhere_is_named(hosts, store):
    host, _ = hosts
    host.fault = guarded("http://127.0.0.1:1/token")
    with pytest.raises(registry.RegistryError, match="could not connect to 127.0.0.1:1 "):
        pull(store, name(host))


@pytest.mark.parametrize("body", [b"", b"[]", b'{"token":5}', b'{"token":"a\\nb"}', b"{" * 10_000])
def test_answers_that_hold_no_token(hosts, store, body):
    host, _ = hosts
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{host.host}/token"'}
    host.fault = lambda seen: Answer(200, body=body) if seen.path.startswith("/token") else Answer(401, challenge)
    with pytest.raises(registry.RegistryError, match="no usable token"):
        pull(store, name(host))


def test_a_key_that_is_none(hosts, store, tmp_path):
    host, _ = hosts
    host.fault = guarded(f"http://{host.host}/token")
    key = tmp_path / "home" / ".ollama" / "id_ed25519"
    key.parent.mkdir(parents=True)
    other = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    for bad in (b"", b"not a key", other):
        key.write_bytes(bad)
        with pytest.raises(registry.RegistryError, match="the key .*id_ed25519"):
            pull(store, name(host))
        assert key.read_bytes() == bad


def test_name_and_password(hosts, store):
    host, _ = hosts
    wanted = authorization.basic("me", "secret")
    host.fault = lambda seen: (
        None if seen.headers.get("Authorization") == wanted else Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
    )
    pull(store, name(host), credentials=registry.Credentials("me", "secret"))
    assert is_there(store, host)
    with pytest.raises(registry.RegistryError, match="unauthorized"):
        pull(store, name(host), credentials=registry.Credentials("me", "wrong"))
    with pytest.raises(registry.RegistryError, match="provide username and password"):
        pull(store, name(host))
