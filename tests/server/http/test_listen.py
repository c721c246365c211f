"""OLLAMA_HOST, and the address that a server listens on for it."""

import errno
import socket

import pytest
from vulkan_drivers import missing

from vkbackend.server import serving
from vkbackend.server.http import address
from vkbackend.server.serving import AddressInUse, listen


def reaches(family: socket.AddressFamily, host: str, port: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        return client.connect_ex((host, port)) == 0


@pytest.fixture
def both_families():
    if not socket.has_dualstack_ipv6():
        missing("this machine has no IPv6")


@pytest.mark.parametrize("text", ["0.0.0.0:0", "[::]:0", ":0", "[0:0:0:0:0:0:0:0]:0", "[::ffff:0.0.0.0]:0"])
def test_a_wildcard_listens_on_both_families(both_families, text):
    with listen(address.parse(text)) as listening:
        port = listening.getsockname()[1]
        assert reaches(socket.AF_INET, "127.0.0.1", port) and reaches(socket.AF_INET6, "::1", port)


@pytest.mark.parametrize(
    "text, family, own, other",
    [
        ("[::ffff:127.0.0.1]:0", socket.AF_INET, "127.0.0.1", "::1"),
        ("127.0.0.1:0", socket.AF_INET, "127.0.0.1", "::1"),
        ("[::1]:0", socket.AF_INET6, "::1", "127.0.0.1"),
        ("localhost:0", socket.AF_INET, "127.0.0.1", "::1"),
    ],
)
def test_one_address_listens_on_its_family(both_families, text, family, own, other):
    with listen(address.parse(text)) as listening:
        port = listening.getsockname()[1]
        assert listening.family == family and reaches(family, own, port)
        assert not reaches(socket.AF_INET6 if family == socket.AF_INET else socket.AF_INET, other, port)


@pytest.mark.parametrize("can_make", [False, True])
def test_without_ipv6_a_wildcard_listens_on_ipv4(monkeypatch, can_make):
    create = socket.create_server

    def create_server(place, *, family=socket.AF_INET, **options):
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return create(place, family=family, **options)

    monkeypatch.setattr(serving.socket, "has_dualstack_ipv6", lambda: can_make)
    monkeypatch.setattr(serving.socket, "create_server", create_server)
    with listen(address.parse("[::]:0")) as listening:
        assert listening.family == socket.AF_INET and reaches(socket.AF_INET, "127.0.0.1", listening.getsockname()[1])


def test_a_port_that_is_taken_is_named():
    with listen(address.parse(":0")) as listening:
        port = listening.getsockname()[1]
        for text in (f":{port}", f"127.0.0.1:{port}", f"0.0.0.0:{port}"):
            with pytest.raises(AddressInUse, match=f":{port}: bind: address already in use"):
                listen(address.parse(text))


@pytest.mark.parametrize(
    "text, url",
    [
        ("http://h:1/a:b=c", "http://h:1/a:b=c"),
        ("h/x@y&z+$;,", "http://h:11434/x@y&z+$;,"),
        ("h:1/a b%(c)!*'?", "http://h:1/a%20b%25%28c%29%21%2A%27%3F"),
        ("h:1/\u221e", "http://h:1/%E2%88%9E"),
        ("h:1/a/b/", "http://h:1/a/b/"),
    ],
)
def test_a_path_is_escaped_as_in_go(text, url):
    assert address.parse(text).url == url
