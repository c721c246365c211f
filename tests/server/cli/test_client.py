"""The HTTP client of the command line, against servers that answer badly."""

import socket
import threading

import pytest

from vkbackend.server.cli.client import Client, NoServer, ServerError


@pytest.fixture
def answering():
    """serve(bytes) -> URL of a server that sends these bytes to every client."""
    open_sockets, threads = [], []

    def serve(reply: bytes) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        open_sockets.append(listening)

        def answer_each():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply)

        threads.append(threading.Thread(target=answer_each, daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield serve
    for each in open_sockets:
        each.close()


def http(status: str, body: bytes, length: int | None = None) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    "reply, words, status",
    [
        (http("404 Not Found", b'{"error":"model \'x\' not found"}'), "model 'x' not found", 404),
        (http("400 Bad Request", b'{"error":{"message":"in words","type":"x"}}'), "in words", 400),
        (http("502 Bad Gateway", b""), "returned status 502", 502),
        (http("200 OK", b"<html>"), "did not return JSON", 0),
        (b"", "no answer", 0),
        (b"SSH-2.0-x\r\n", "no answer", 0),
    ],
)
def test_every_bad_answer_is_an_error_in_words(answering, reply, words, status):
    client = Client(answering(reply))
    assert client.answers()
    with pytest.raises(ServerError) as caught:
        client.call("GET", "/api/tags")
    assert words in str(caught.value) and caught.value.status == status


def test_stream_that_breaks_off_or_ends_with_an_error(answering):
    client = Client(answering(http("200 OK", b'{"response":"a"}\n{"error":"out of memory"}\n')))
    stream = client.stream("/api/generate", {})
    assert next(stream) == {"response": "a"}
    with pytest.raises(ServerError, match="out of memory"):
        next(stream)
    for text in (b'{"response":"a"}\n{"respon', b'{"response":"a"}\n'):
        with pytest.raises(ServerError, match="lost|incomplete"):
            list(Client(answering(http("200 OK", text, length=99))).stream("/api/generate", {}))
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n" + b'{"response":"a"}\n\r\n'
    with pytest.raises(ServerError, match="lost|incomplete"):
        list(Client(answering(chunked)).stream("/api/generate", {}))
    assert list(Client(answering(http("200 OK", b'{"done":true}\n'))).stream("/api/generate", {})) == [{"done": True}]


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}")
    assert not client.answers()
    with pytest.raises(NoServer, match="vkbackend serve"):
        client.call("GET", "/api/tags")
