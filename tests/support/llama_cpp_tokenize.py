"""Tokenizes texts with llama.cpp, as a program of its own, so that its memory and threads end with it.

python llama_cpp_tokenize.py <requests >replies: `requests` is JSON {model path: list of {content, add_special,
parse_special}}; `replies` is JSON {model path: list of lists of [id, bytes of the token in hex]}.
"""

import http.client
import json
import sys
from urllib.parse import urlsplit

import xllamacpp


def main():
    print(json.dumps({model: tokenize(model, requests) for model, requests in json.load(sys.stdin).items()}))


def tokenize(model: str, requests: list[dict]) -> list:
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = model, 64, 1, 1
    params.warmup = False
    server = xllamacpp.Server(params)
    connection = http.client.HTTPConnection(urlsplit(server.listening_address).netloc)
    replies = []
    for request in requests:
        connection.request(
            "POST", "/tokenize", json.dumps({**request, "with_pieces": True}), {"Content-Type": "application/json"}
        )
        tokens = json.load(connection.getresponse())["tokens"]
        replies.append([[token["id"], _hex(token["piece"])] for token in tokens])
    connection.close()
    return replies


def _hex(piece) -> str:
    """A piece is a text, or a list of byte values where it is no valid UTF-8."""
    return (piece.encode() if isinstance(piece, str) else bytes(piece)).hex()


if __name__ == "__main__":
    main()
