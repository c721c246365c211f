"""The way to a registry: certificates, redirects, proxies, and errors in words."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fault_proxy import Answer, FaultProxy
from registry_world import DATA, LIMITS, guarded, is_there, name, pull
from yarl import URL

from vkbackend.server.library import registry
from vkbackend.server.library.registry import authorization
from vkbackend.server.library.registry.client import error_message, proxy_of, retry_after

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
    assert store.get("registry.example/library/m").gguf_path.read_bytes() == DATA
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
