"""Paths that are not clean are redirected to the clean one, and nowhere else."""

import socket

import pytest
from live_server import LiveServer
from manage_world import talk
from yarl import URL

from vkbackend.server.http import paths
from vkbackend.server.library.store import Store


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with LiveServer(tmp_path_factory.mktemp("models")) as server:
        yield server


def ask(server, request: str) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of a raw request: client libraries clean paths themselves."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(
            f"{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode(
                "utf-8", "surrogateescape"
            )
        )
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


@pytest.mark.parametrize(
    "path, clean",
    [
        ("//api/tags", "/api/tags"),
        ("/api//tags", "/api/tags"),
        ("///api///tags", "/api/tags"),
        ("/api/./tags", "/api/tags"),
        ("/./", "/"),
        ("//", "/"),
        ("/api/x/../tags", "/api/tags"),
        ("/../../api/tags", "/api/tags"),
        ("/api/tags/.", "/api/tags"),
        ("/api/tags/x/..", "/api/tags"),
        ("//api/tags?a=1&b=//x/../", "/api/tags?a=1&b=//x/../"),
        ("//api/tags/", "/api/tags/"),
        ("/api/tags/", "/api/tags"),
        ("/api/tags/?q=%20", "/api/tags?q=%20"),
        ("//no/such//path", "/no/such/path"),
        ("/v1/models/%2F..//x", "/v1/models/%2F../x"),
        ("http://localhost//api/tags", "/api/tags"),
    ],
)
def test_a_path_that_is_not_clean_is_redirected(server, path, clean):
    for method, status in (("GET", 301), ("HEAD", 301), ("POST", 307), ("DELETE", 307), ("PUT", 307)):
        if path.startswith("/api/tags/") and method not in ("GET", "HEAD"):
            continue  # a route of other methods: gin looks for the slash only in those of the request's own
        got, headers, body = ask(server, f"{method} {path}")
        assert (got, headers["Location"]) == (status, clean), method
        assert body == (
            f'<a href="{clean.replace("&", "&amp;")}">Moved Permanently</a>.\n\n'.encode() if method == "GET" else b""
        )


@pytest.mark.parametrize(
    "path",
    [
        "//evil.com",
        "//evil.com/",
        "/\\evil.com/",
        "//\\evil.com",
        "/api/..//\\evil.com/",
        "///evil.com/..//evil.com/",
        "http://evil.com/api/tags/",
        "http://evil.com//api/tags",
        "/%2F/evil.com//",
        "/%5Cevil.com//",
        "/\t//evil.com",
        "//\udcffevil.com",
        "/;//evil.com",
    ],
)
def test_no_redirect_leads_to_another_host(server, path):
    status, headers, _ = ask(server, f"GET {path}")
    target = headers.get("Location", "/")
    assert status in (301, 400, 403, 404) and target.startswith("/") and not target.startswith(("//", "/\\")), (
        status,
        target,
    )
    assert URL("http://localhost:1").join(URL(target, encoded=True)).host == "localhost"


@pytest.mark.parametrize(
    "target, status",
    [
        ("http://evil.com/api/version", 403),
        ("http://evil.com:80/api/version?x=http://localhost/", 403),
        ("http://[127.0.0.1].evil.com:80/api/version", 400),
        ("http://localhost:80/api/version", 200),
        ("http://[::1]:80/api/version", 200),
    ],
)
def test_the_host_of_an_absolute_target_counts(server, target, status):
    assert ask(server, f"GET {target}")[0] == status


def test_a_post_to_an_unclean_path_arrives_with_its_body(tmp_path):
    async def conversation(client):
        answer = await client.session.post(
            URL(str(client.make_url("/")) + "/api//show", encoded=True), json={"model": "nope"}
        )
        return answer.status, await answer.json()

    assert talk(Store(tmp_path / "store"), conversation) == (404, {"error": "model 'nope' not found"})


def test_clean_paths_stay(tmp_path):
    for target in ("/", "/api/tags", "/api/tags?x=//", "/.../x", "/a.b/..c", "/v1/models/a%2F%2Fb", "/%2e%2e/x"):
        assert paths.cleaned(target) is None


def test_a_path_of_very_many_segments_costs_nothing(server):
    for path in ("/a" * 400_000, "/" * 900_000, "/../x" * 100_000, ("/" + "a" * 1000) * 1000):
        assert ask(server, f"GET {path}")[0] == 404
