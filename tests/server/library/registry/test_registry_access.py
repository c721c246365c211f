"""Access to a registry: tokens and keys, passwords, redirects, proxies."""

import base64
import json
import os
import socket
import ssl
import stat
import subprocess
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_ssh_public_key
from docker_registry import DockerRegistry
from fault_proxy import Answer, FaultProxy
from registry_world import LIMITS, contents, make, name, pull, push
from yarl import URL

from vkbackend.server.library import registry
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.registry import authorization
from vkbackend.server.library.registry.client import error_message, proxy_of, retry_after
from vkbackend.server.library.store import Store

TOKEN = "let-me-in"


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    with DockerRegistry(folder / "registry") as registry:
        make(Store(folder / "source"), f"{registry.host}/library/m", contents(1))
        push(Store(folder / "source"), f"{registry.host}/library/m")
        yield registry


@pytest.fixture(scope="module")
def proxies(debian):
    """Two hosts."""
    with FaultProxy(debian.host) as first, FaultProxy(debian.host) as second:
        yield first, second


@pytest.fixture
def hosts(proxies, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for proxy in proxies:
        proxy.forget()
    return proxies


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def is_there(store, registry) -> bool:
    return store.get(parse_name(name(registry))).gguf_path.read_bytes() == contents(1)


def guarded(realm: str, allowed=lambda seen: True):
    """A registry that requires a token from `realm`; its own /token gives one if `allowed(seen)`."""

    def fault(seen):
        if seen.path.startswith("/token"):
            return (
                Answer(200, body=json.dumps({"token": TOKEN}).encode())
                if allowed(seen)
                else Answer(401, body=b'{"error":"who are you?"}')
            )
        if seen.headers.get("Authorization") != f"Bearer {TOKEN}":
            challenge = (
                f'Bearer realm="{realm}",service="registry",scope="repository:library/m:pull repository:library/m:push"'
            )
            return Answer(401, {"WWW-Authenticate": challenge})

    return fault


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


# --- tokens and keys


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


# --- TLS


def test_certificates_are_checked_unless_insecure(debian, store, tmp_path):
    with FaultProxy(debian.host, own_certificate(tmp_path)) as host:
        text = f"https://{host.host}/library/m"
        for unsafe in (text, f"{host.host}/library/m"):
            with pytest.raises(registry.RegistryError, match="certificate of .* is not trusted.*--insecure"):
                pull(store, unsafe, insecure=False)
        pull(store, text, insecure=True)
        assert is_there(store, host)


def own_certificate(folder) -> ssl.SSLContext:
    """A self-signed certificate."""
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")]),
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


# --- redirects


def test_blobs_may_lie_elsewhere_and_tokens_stay_here(hosts, store):
    host, elsewhere = hosts
    inner = guarded(f"http://{host.host}/token")

    def moved(seen):
        return Answer(307, {"Location": f"http://{elsewhere.host}{seen.path}?signed=%2Fa%20b"})

    host.fault = lambda seen: inner(seen) or (moved(seen) if seen.kind == "GET blobs" else None)
    pull(store, name(host))
    assert is_there(store, host)
    assert len(elsewhere.seen) > 3 and all(
        "Authorization" not in seen.headers and seen.path.endswith("?signed=%2Fa%20b") for seen in elsewhere.seen
    )
    assert len([seen for seen in elsewhere.seen if "Range" in seen.headers]) >= 12  # sent there, too


@pytest.mark.parametrize(
    "location, says",
    [
        ("/v2/library/m/manifests/latest", "more than 10 times"),
        ("ftp://127.0.0.1/x", "not a valid address"),
        ("file:///etc/passwd", "not a valid address"),
        ("http://127.0.0.1:1/x", "refused"),
        ("http://[", "cannot send a request"),
    ],
)
def test_redirects_that_lead_nowhere(hosts, store, location, says):
    host, _ = hosts
    host.fault = lambda seen: Answer(302, {"Location": location})
    with pytest.raises(registry.RegistryError, match=says):
        pull(store, name(host))


# --- proxies


def test_a_proxy_is_used_for_http(hosts, store, monkeypatch):
    """Only the proxy can resolve the name."""
    host, _ = hosts
    monkeypatch.setenv("http_proxy", f"http://me:secret@{host.host}")
    pull(store, "http://registry.example/library/m")
    assert store.get("registry.example/library/m").gguf_path.read_bytes() == contents(1)
    assert {seen.headers["Host"] for seen in host.seen} == {"registry.example"}
    assert {seen.headers["Proxy-Authorization"] for seen in host.seen} == {authorization.basic("me", "secret")}


def test_a_proxy_is_used_for_https(store, monkeypatch):
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            heard.append(connection.recv(1000))
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(registry.RegistryError):
            pull(store, "registry.example/library/m", insecure=False, limits=registry.TransferLimits(tries=1))
        thread.join(5)
    assert heard[0].startswith(b"CONNECT registry.example:443 HTTP/1.1\r\n")


def test_hosts_contacted_without_a_proxy(monkeypatch):
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example,.local.example")
    assert proxy_of(URL("https://registry.ollama.ai")) == "http://proxy.example:3128"
    for url in (
        "http://registry.ollama.ai",
        "https://127.0.0.1:5000",
        "https://localhost",
        "https://[::1]:5000",
        "https://inside.example",
        "https://a.local.example:444",
    ):
        assert proxy_of(URL(url)) is None, url


# --- what registries say


@pytest.mark.parametrize(
    "body, told",
    [
        (b'{"errors":[{"code":"DENIED","message":"access denied"}]}', "access denied"),
        (b'{"errors":[{"code":"DENIED"}]}', "DENIED"),
        (b'{"error":"too old"}', "too old"),
        (b"plain words", "plain words"),
        (b'{"errors":[]}', '{"errors":[]}'),
        (b'{"errors":7}', '{"errors":7}'),
        (b"[]", "[]"),
        (b"<html>x</html>", ""),
        (b"", ""),
        (b"[" * 4096, "[" * 200),
        (b'{"error":"\\u001b[31mred\\u001b]0;title\\u0007\\r\\nsuccess"}', "[31mred ]0;title   success"),
        (b"\xff" * 300, "\ufffd" * 200),
    ],
)
def test_errors_in_words(body, told):
    assert error_message(body) == told


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("5", 5),
        (" 7 ", 7),
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_when_to_come_back(text, seconds):
    assert retry_after(text) == seconds
    assert seconds is None or LIMITS.wait_seconds(1, seconds) == seconds
    assert LIMITS.wait_seconds(1, 1e9) == LIMITS.longest_wait_seconds
