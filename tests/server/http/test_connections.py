"""Connections on real sockets: large heads, requests that never arrive, too many clients, bodies as sent."""

import gzip
import hashlib
import json
import resource
import socket
import sys
import time

import pytest
from live_server import LiveServer
from places import ROOT

from vkbackend.server.http import connections

HEADER_SECONDS, BODY_SECONDS = 1, 2
OPEN_FILES = 256


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "stderr"


@pytest.fixture(scope="module")
def server(tmp_path_factory, log):
    times = {"VKBACKEND_HEADER_SECONDS": str(HEADER_SECONDS), "VKBACKEND_BODY_SECONDS": str(BODY_SECONDS)}
    with LiveServer(tmp_path_factory.mktemp("models"), environment=times, log=log, open_files=OPEN_FILES) as server:
        yield server


def connect(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 20)


def read_all(client: socket.socket) -> bytes:
    answer = b""
    while piece := client.recv(65536):
        answer += piece
    return answer


def exchange(server, request: bytes) -> bytes:
    """The bytes that come back until the server closes."""
    with connect(server) as client:
        client.sendall(request)
        return read_all(client)


def request(method: str, target: str, headers: str = "", body: bytes = b"") -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + headers.encode() + b"\r\n" + body


def status(answer: bytes) -> int:
    return int(answer.split()[1])


@pytest.mark.parametrize(
    "target, headers",
    [
        ("/api/version", "Cookie: " + "c" * 16_000 + "\r\n"),
        ("/api/version", "Authorization: Bearer " + "t" * 900_000 + "\r\n"),
        ("/api/version?" + "q" * 16_000, ""),
        ("/api/version?" + "q" * 900_000, ""),
        ("/api/version", "X-One: " + "1" * 500_000 + "\r\nX-Two: " + "2" * 500_000 + "\r\n"),
        ("/api/version", "".join(f"X-{number}: {number}\r\n" for number in range(10_000))),
    ],
    ids=lambda text: f"{text[:14].strip()}~{len(text)}",
)
def test_a_head_may_be_as_large_as_in_go(server, target, headers):
    assert status(exchange(server, request("GET", target, headers))) == 200


@pytest.mark.parametrize(
    "target, headers",
    [
        ("/", "X: " + "x" * (1 << 20) + "\r\n"),
        ("/" + "a" * (1 << 20), ""),
        ("/", "".join(f"X-{number}: {'x' * 1000}\r\n" for number in range(1100))),
        ("/", "X: " + "x" * (4 << 20) + "\r\n"),
        ("/", "a:b\r\n" * 100_000),
    ],
    ids=lambda text: f"{text[:9].strip()}~{len(text)}",
)
def test_a_larger_head_is_refused_in_words(server, log, target, headers):
    answer = exchange(server, request("GET", target, headers))
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n") and answer.endswith(
        b"\r\n\r\n431 Request Header Fields Too Large"
    )
    assert server.call("GET", "/api/version")[0] == 200 and "Traceback" not in log.read_text()


@pytest.mark.parametrize("method", ["FOO", "get", "LOCK", "M-SEARCH", "a" * 64])
def test_a_method_without_a_route_is_answered_as_in_ollama(server, method):
    answer = exchange(server, request(method, "/api/chat", body=b"{}"))
    assert status(answer) == 405 and b"\r\nAllow: POST\r\n" in answer and answer.endswith(b"405 method not allowed")
    answer = exchange(server, request(method, "/nothing"))
    assert status(answer) == 404 and answer.endswith(b"404 page not found")


def test_a_method_may_arrive_in_pieces_and_between_other_requests(server):
    plain = b" /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    with connect(server) as client:
        for piece in (b"F", b"O", b"O" + plain):
            client.sendall(piece)
            time.sleep(0.05)
        assert client.recv(65536).startswith(b"HTTP/1.1 405 ")
        client.sendall(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"BAR" + plain + request("GET", "/api/version"))
        answers = read_all(client)
    assert answers.startswith(b"HTTP/1.1 405 ") and b"\r\nHTTP/1.1 200 " in answers.replace(b"allowedHTTP", b"\r\nHTTP")


def test_a_large_head_may_follow_a_body(server):
    """The bytes of a body do not count as the head, however they are cut into packets."""
    head = "X: " + "x" * 1_000_000 + "\r\n"
    first = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n" + b" " * 2_000_000
    answer = exchange(server, first + request("GET", "/api/version", head))
    assert status(answer) == 400 and b"}HTTP/1.1 200 OK\r\n" in answer


@pytest.mark.parametrize("framing", [b"X-%d: " + b"y" * 1000 + b"\r\n", b""], ids=["trailers", "chunk extension"])
def test_what_stands_around_a_body_is_bounded_too(server, framing):
    start = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
    start += b"0\r\n" if framing else b"2;"
    with connect(server) as client, pytest.raises(ConnectionError):
        client.sendall(start)
        for number in range(10_000):
            client.sendall(framing % number if framing else b"e" * 1000)


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nNo colon\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_no_traceback(server, log, noise):
    with connect(server) as client:
        client.sendall(noise)
        client.shutdown(socket.SHUT_WR)
        answer = read_all(client)
    assert not answer or (status(answer) == 400 and answer.endswith(b"400 Bad Request"))
    assert "Traceback" not in log.read_text()


def test_the_bytes_of_a_body_are_taken_as_they_were_sent(server):
    packed, header = gzip.compress(b'{"model": "nope"}'), "Content-Encoding: gzip\r\n"
    answer = exchange(server, request("POST", "/api/show", header, packed))
    assert status(answer) == 400 and b"invalid character" in answer
    digest = hashlib.sha256(packed).hexdigest()
    assert status(exchange(server, request("POST", f"/api/blobs/sha256:{digest}", header, packed))) == 201
    assert (server.models_folder / "blobs" / f"sha256-{digest}").read_bytes() == packed
    for name in ("deflate", "br", "zstd", "identity", "nonsense"):
        answer = exchange(server, request("POST", "/api/show", f"Content-Encoding: {name}\r\n", b'{"model": "nope"}'))
        assert status(answer) == 404 and b"model 'nope' not found" in answer


@pytest.mark.parametrize("beginning", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX: "])
def test_headers_that_never_end_are_given_up(server, beginning):
    with connect(server) as client:
        client.sendall(beginning)
        started = time.monotonic()
        while time.monotonic() - started < HEADER_SECONDS / 2:
            time.sleep(0.1)
            client.sendall(beginning[-1:] and b"y")  # moving does not help: a head is small
        assert read_all(client) == b"" and HEADER_SECONDS / 2 < time.monotonic() - started < HEADER_SECONDS + 3


def test_a_kept_connection_may_be_idle_for_longer(server):
    with connect(server) as client:
        for pause in (HEADER_SECONDS + 1.5, 0):
            client.sendall(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" in client.recv(65536)
            time.sleep(pause)


@pytest.mark.parametrize("path", ["/api/show", "/v1/chat/completions", "/api/blobs/sha256:" + "0" * 64])
def test_a_body_that_stops_is_given_up(server, path):
    started = time.monotonic()
    answer = exchange(server, f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{{".encode())
    assert (
        status(answer) == 408
        and b"stopped arriving" in answer
        and BODY_SECONDS - 1 < time.monotonic() - started < BODY_SECONDS + 3
    )


def test_a_slow_upload_that_moves_arrives(server):
    contents = b"slow" * 10
    digest = hashlib.sha256(contents).hexdigest()
    with connect(server) as client:
        client.sendall(request("POST", f"/api/blobs/sha256:{digest}", body=contents)[: -len(contents)])
        for start in range(0, len(contents), 4):
            client.sendall(contents[start : start + 4])
            time.sleep((BODY_SECONDS + 1.5) / 10)
        assert status(read_all(client)) == 201


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET / HTTP/1.1\r\nX: ",
        b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["nothing", "head", "body", "idle"],
)
def test_others_are_served_while_clients_fill_every_connection(server, log, beginning):
    before = log.stat().st_size
    clients = []
    try:
        for _ in range(OPEN_FILES + 100):
            clients.append(connect(server))
            clients[-1].sendall(beginning)
        for _ in range(5):
            started = time.monotonic()
            assert server.call("GET", "/api/version")[0] == 200 and time.monotonic() - started < 1
    finally:
        for client in clients:
            client.close()
    assert log.stat().st_size - before < 2000 and "Traceback" not in log.read_text()


def test_clients_wait_where_no_file_is_left(tmp_path):
    """The server accepts no client, logs so once, and serves again once there is room."""
    log = tmp_path / "stderr"
    with LiveServer(tmp_path / "models", log=log) as server:
        assert server.call("GET", "/api/version")[0] == 200  # it has started
        limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))  # of which all are open
        with connect(server) as client:
            client.sendall(request("GET", "/api/version"))
            client.settimeout(1.5)
            with pytest.raises(TimeoutError):
                client.recv(100)
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
            client.settimeout(20)
            assert status(read_all(client)) == 200
        text = log.read_text()
    assert text.count("cannot accept new clients") == 1 and "Traceback" not in text


def test_the_limit_of_open_files_is_raised(monkeypatch):
    limits = [100, 5000]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(slice(None), new))
    assert connections.most_connections() == 50
    connections.raise_file_limit()
    assert limits == [5000, 5000] and connections.most_connections() == 5000 - connections.RESERVED_FILES


def test_windows_has_no_limit_of_open_files(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # an import of it fails, as on Windows
    connections.raise_file_limit()
    assert connections.most_connections() > 10_000
    assert not hasattr(connections, "resource")  # nothing imported it before


def test_the_unit_allows_many_files():
    assert "\nLimitNOFILE=65536\n" in (ROOT / "deploy" / "vkbackend.service").read_text()


def test_names_are_bounded_before_they_are_quoted(server):
    """The event loop answers other requests in the meantime."""
    long = "a/" * 10_000_000
    for method, path, body in [
        ("POST", "/api/copy", {"source": long, "destination": "x"}),
        ("POST", "/api/copy", {"source": "x", "destination": long}),
        ("DELETE", "/api/delete", {"name": long}),
        ("POST", "/api/show", {"model": long}),
        ("POST", "/api/pull", {"name": long}),
        ("POST", "/api/create", {"model": "x", "from": long, "stream": False}),
        ("POST", "/api/generate", {"model": long}),
    ]:
        answer, text = server.call(method, path, body)
        assert 400 <= answer < 501 and len(json.loads(text)["error"]) < 400, path
