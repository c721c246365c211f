"""Requests of many shapes: what a client may send to each route that takes a body, within the limits and beyond.

In: a size in bytes that no body exceeds. Out: `Shape`s, whose bodies are made when they are asked for.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

SHORT = {"num_predict": 1, "num_ctx": 256}
USER = {"role": "user", "content": "a"}
ASK = {"model": "m", "prompt": "a", "stream": False, "options": SHORT}
CHAT = {"model": "m", "messages": [USER], "stream": False, "options": SHORT}
CREATE = {"model": "x", "from": "m", "stream": False}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PICTURE = "data:image/png;base64,"
TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
MARK = "\x00"  # where the long part goes
FORMAT_CHARS = 262_000


@dataclass
class Shape:
    """A request: `body()` makes the bytes of its body."""

    name: str
    path: str
    body: Callable[[], bytes] = bytes
    method: str = "POST"
    headers: list[tuple[str, str]] = field(default_factory=list)


def long_text(document: object, piece: str, size: int) -> bytes:
    """The JSON of a document whose text MARK is replaced by repetitions of `piece`, which is JSON inside of a text."""
    before, after = json.dumps(document).encode().split(json.dumps(MARK)[1:-1].encode())
    return before + piece.encode() * ((size - len(before) - len(after)) // len(piece.encode())) + after


def many(document: object, item: object, size: int, most: int = 1 << 30) -> bytes:
    """The same for MARK as the only item of an array, replaced by repetitions of `item`."""
    before, after = json.dumps(document).encode().split(json.dumps(MARK).encode())
    text = (item if isinstance(item, str) else json.dumps(item)).encode()
    count = min((size - len(before) - len(after)) // (len(text) + 1), most)
    return before + b",".join([text] * count) + after


def names(document: object, value: object, size: int) -> bytes:
    """The same for {MARK: 0}, replaced by members of many names."""
    before, after = json.dumps(document).encode().split(json.dumps({MARK: 0})[1:-1].encode())
    text = json.dumps(value)
    count = (size - len(before) - len(after)) // (len(text) + 11)
    return before + ",".join(f'"{number:07d}":{text}' for number in range(count)).encode() + after


def shapes(size: int) -> Iterator[Shape]:
    """Every shape, grouped by what is large in it."""
    for group in (values, texts, chats, generations, formats, openai, embeddings, management, heads):
        yield from group(size)


def values(size: int) -> Iterator[Shape]:
    """As many values as a body may hold, in fields that nobody reads, and in one that takes any value."""
    unknown, options = {"model": "m", "x": [MARK]}, {**ASK, "options": {**SHORT, "x": [MARK]}}
    deep = '{"a":' * 90 + "1" + "}" * 90
    yield Shape("values: numbers", "/api/show", partial(many, unknown, 1, size, 990_000))
    yield Shape("values: members", "/api/show", partial(many, unknown, '{"a":1}', size, 490_000))
    yield Shape("values: deep", "/api/show", partial(many, unknown, deep, size))
    yield Shape("values: deep, kept", "/api/generate", partial(many, options, deep, size // 2))
    yield Shape("values: too many", "/api/generate", partial(many, options, "[]", size))
    yield Shape("values: too deep", "/api/show", lambda: b"[" * (size // 2) + b"]" * (size // 2))
    yield Shape("values: no JSON", "/api/show", lambda: b"\xff" * size)
    yield Shape("values: spaces", "/api/show", lambda: b'{"model":"m"' + b" " * (size - 13) + b"}")


def texts(size: int) -> Iterator[Shape]:
    """One long prompt: as it is run, and as it is shown."""
    ask = {**ASK, "prompt": MARK}
    pieces = {"ASCII": "a", "words": "the fox ", "Cyrillic": "\u0434", "escapes": "\\n", "lone surrogates": "\\ud800"}
    for name, piece in pieces.items():
        yield Shape(f"prompt: {name}", "/api/generate", partial(long_text, ask, piece, size))
    shown = {
        "CJK": "\u6f22",
        "emoji": "\U0001f600",
        "surrogates": "\\ud83d\\ude00",
        "HTML": "<&>",
        "tokens": "<|im_end|>",
    }
    for name, piece in shown.items():
        document = {**ask, "_debug_render_only": True}
        yield Shape(f"prompt, shown: {name}", "/api/generate", partial(long_text, document, piece, size))


def chats(size: int) -> Iterator[Shape]:
    """Messages, tools and images."""

    def message(**fields: object) -> dict:
        return {**CHAT, "messages": [{**USER, **fields}]}

    def tool(**fields: object) -> dict:
        function = {"name": "f", "parameters": {"type": "object", **fields}}
        return {**CHAT, "tools": [{"type": "function", "function": function}]}

    messages = {**CHAT, "messages": [MARK]}
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    for name, document, item, most in (
        ("messages", messages, {**USER, "content": "x" * 400}, size),
        ("messages: system texts", messages, {"role": "system", "content": "s" * 4000}, size),
        ("messages: too many", messages, USER, size // 4),
        ("calls", messages, {"role": "assistant", "tool_calls": [call] * 400}, size // 4),
        ("tools: too many", {**CHAT, "tools": [MARK]}, TOOL, size // 4),
        ("tools: a long enum", tool(properties={"p": {"enum": [MARK]}}), '"e"', size // 4),
        ("images: too many", message(images=[MARK]), '"QUJD"', size // 4),
        ("images: as numbers", message(images=[[MARK]]), 7, size // 4),
    ):
        yield Shape(name, "/api/chat", partial(many, document, item, most))
    for name, document, piece in (
        ("message", message(content=MARK), "the fox "),
        ("role", message(role=MARK), "R"),
        ("arguments", message(tool_calls=[{"function": {"name": "f", "arguments": {"a": MARK}}}]), "\u6f22"),
        ("tool: a long description", tool(description=MARK), "\u6f22"),
        ("image", message(images=[MARK]), "QUJD"),
        ("image of line ends", message(images=[MARK]), "QUJD\\r\\n"),
        ("image that is broken", message(images=[MARK]), "QUJDx"),
    ):
        yield Shape(name, "/api/chat", partial(long_text, document, piece, size))
    yield Shape(
        "tool: properties", "/api/chat", partial(names, tool(properties={MARK: 0}), {"type": "string"}, size // 2)
    )
    yield Shape("tool: $defs", "/api/chat", partial(names, tool(**{"$defs": {MARK: 0}}), {"a": [1, 2]}, size // 2))


def generations(size: int) -> Iterator[Shape]:
    """The other fields of /api/generate."""

    def option(**fields: object) -> dict:
        return {**ASK, "options": {**SHORT, **fields}}

    for name, document, piece, most in (
        ("system", {**ASK, "system": MARK}, "the fox ", size),
        ("suffix", {**ASK, "suffix": MARK}, "the fox ", size),
        ("template: too long", {**ASK, "template": MARK}, "the fox ", size),
        ("template", {**ASK, "template": MARK}, "{{ .Prompt }}", 100_000),
        ("stop: a long one", option(stop=[MARK]), "a", size),
        ("model", {**ASK, "model": MARK}, "m/", size),
        ("keep_alive", {**ASK, "keep_alive": MARK}, "0h", size // 4),
        ("think", {**ASK, "think": MARK}, "h", size),
    ):
        yield Shape(name, "/api/generate", partial(long_text, document, piece, most))
    yield Shape("context", "/api/generate", partial(many, {**ASK, "context": [MARK]}, 7, size // 8))
    yield Shape("context: odd ids", "/api/generate", partial(many, {**ASK, "context": [MARK]}, 10**14, size))
    yield Shape("stop: too many", "/api/generate", partial(many, option(stop=[MARK]), '"a"', size // 4))
    yield Shape("logit_bias: too many", "/api/generate", partial(names, option(logit_bias={MARK: 0}), 1, size // 4))
    yield Shape("options: unknown", "/api/generate", partial(names, option(**{MARK: 0}), 1, size // 2))
    slow = {**ASK, "template": "{{ range $i := 100000000 }}{{ $i }}{{ end }}"}
    yield Shape("template: too many steps", "/api/generate", lambda: json.dumps(slow).encode())


def formats(size: int) -> Iterator[Shape]:
    """Schemas as long as they may be, and longer ones."""
    properties = {f"p{number}": {"type": "string"} for number in range(2000)}
    schemas: dict[str, dict] = {
        "properties": {"type": "object", "properties": properties},
        "required": {"type": "object", "properties": properties, "required": list(properties)},
        "enum": {"enum": [f"word number {number}" for number in range(FORMAT_CHARS // 25)]},
        "pattern": {"pattern": "^(" + "|".join(f"a{number}b*" for number in range(FORMAT_CHARS // 10)) + ")$"},
        "repetition": {"type": "string", "pattern": "^(a|b|c){1,5000}d{3000}$"},
        "anyOf": {"anyOf": [{"required": [name], "properties": {name: {}}} for name in list(properties)]},
        "allOf": {"allOf": [{"properties": {name: {}}} for name in properties]},
        "$defs": {
            "$ref": "#/$defs/0",
            "$defs": {str(number): {"items": {"$ref": f"#/$defs/{(number + 1) % 3000}"}} for number in range(3000)},
        },
        "literal": {"const": "x" * (FORMAT_CHARS - 1000)},
    }
    for name, schema in schemas.items():
        yield Shape(f"format: {name}", "/api/generate", lambda s=schema: json.dumps({**ASK, "format": s}).encode())
    deep = '{"type":"array","items":' * 280 + "{}" + "}" * 280
    yield Shape("format: deep", "/api/generate", partial(many, {**ASK, "format": MARK}, deep, size, 1))
    yield Shape(
        "format: too long", "/api/generate", partial(many, {**ASK, "format": {"enum": [MARK]}}, '"a"', size // 4)
    )
    yield Shape("format: a text", "/api/generate", partial(long_text, {**ASK, "format": MARK}, "x\\u00e9", size // 2))


def openai(size: int) -> Iterator[Shape]:
    """The same to /v1, and what only /v1 takes."""
    chat, completion = {"model": "m", "max_tokens": 1}, {"model": "m", "max_tokens": 1, "echo": True}

    def message(content: object) -> dict:
        return {**chat, "messages": [{"role": "user", "content": content}]}

    image = {"type": "image_url", "image_url": {"url": PICTURE + MARK}}
    answers = [{"role": "assistant", "tool_calls": [{**CALL, "id": f"c{number}"} for number in range(9000)]}]
    answers += [{"role": "tool", "tool_call_id": f"c{number}", "content": "x"} for number in range(9000)]
    arguments = {**CALL, "function": {"name": "f", "arguments": '{"a":[' + "1," * (size // 8) + "1]}"}}
    spoken = {**chat, "messages": [{"role": "assistant", "tool_calls": [arguments]}]}
    path = "/v1/chat/completions"
    yield Shape("/v1 message", path, partial(long_text, message(MARK), "\u6f22", size))
    yield Shape("/v1 parts", path, partial(many, message([MARK]), {"type": "text", "text": ""}, size // 2))
    yield Shape("/v1 image", path, partial(long_text, message([image]), "QUJD", size))
    yield Shape("/v1 calls and answers", path, lambda: json.dumps({**chat, "messages": answers}).encode())
    yield Shape("/v1 arguments", path, lambda: json.dumps(spoken).encode())
    yield Shape("/v1 stop", path, partial(many, {**message("a"), "stop": [MARK]}, '"a"', size // 4))
    yield Shape("/v1 many choices", path, partial(long_text, {**message(MARK), "n": 8}, "the fox ", size // 8))
    path = "/v1/completions"
    yield Shape("/v1 echo", path, partial(long_text, {**completion, "prompt": MARK}, "\u6f22", size))
    yield Shape("/v1 ids", path, partial(many, {**completion, "prompt": [MARK]}, 7, size // 3))
    yield Shape("/v1 lists of ids", path, partial(many, {**completion, "prompt": [[MARK]]}, 7, size // 8))
    yield Shape("/v1 prompts: too many", path, partial(many, {**completion, "prompt": [MARK]}, '"a"', size // 4))
    prompts = json.dumps("the fox " * (size // 1100))
    yield Shape("/v1 prompts", path, partial(many, {**completion, "prompt": [MARK]}, prompts, size, 128))


def embeddings(size: int) -> Iterator[Shape]:
    for path in ("/api/embed", "/v1/embeddings"):
        ask, asks = {"model": "m", "input": MARK}, {"model": "m", "input": [MARK]}
        yield Shape(f"{path} text", path, partial(long_text, ask, "the fox ", size))
        yield Shape(f"{path} texts", path, partial(many, asks, json.dumps("the fox " * (size // 160)), size))
        yield Shape(f"{path} texts: too many", path, partial(many, asks, '""', size // 4))
        yield Shape(f"{path} ids", path, partial(many, asks, "[7,7]", size // 8))
    yield Shape(
        "/api/embeddings", "/api/embeddings", partial(long_text, {"model": "m", "prompt": MARK}, "\u6f22", size)
    )


def management(size: int) -> Iterator[Shape]:
    for name, document, value in (
        ("files: too many", {"model": "x", "files": {MARK: 0}}, ""),
        ("adapters: too many", {**CREATE, "adapters": {MARK: 0}}, ""),
        ("parameters", {**CREATE, "parameters": {MARK: 0}}, 1),
    ):
        yield Shape(f"create: {name}", "/api/create", partial(names, document, value, size // 4))
    for name, piece in (("license", "word "), ("system", "\u6f22"), ("template", "{{ .Prompt }}")):
        yield Shape(f"create: {name}", "/api/create", partial(long_text, {**CREATE, name: MARK}, piece, size))
    yield Shape("create: licenses", "/api/create", partial(many, {**CREATE, "license": [MARK]}, '"l"', size // 4))
    yield Shape("create: messages", "/api/create", partial(many, {**CREATE, "messages": [MARK]}, USER, size // 2))
    for path, name, method in (
        ("/api/show", "model", "POST"),
        ("/api/copy", "source", "POST"),
        ("/api/delete", "model", "DELETE"),
        ("/api/push", "model", "POST"),
        ("/api/pull", "model", "POST"),
    ):
        yield Shape(f"{path} name", path, partial(long_text, {name: MARK}, "\u6f22:/", size), method)
    yield Shape("show: options", "/api/show", partial(names, {"model": "m", "options": {MARK: 0}}, 1, size // 4))
    yield Shape("blob", "/api/blobs/sha256:" + "0" * 64, lambda: bytes(size))


def heads(size: int) -> Iterator[Shape]:
    """Request lines and headers just below 1 MiB, and beyond."""
    most = min(size, 1_000_000)
    for name, path in (
        ("query", "/api/tags?" + "a=b&" * (most // 4)),
        ("path", "/" + "a" * most),
        ("path of slashes", "/api" + "/" * most),
        ("path of dots", "/api" + "/.." * (most // 3)),
        ("escaped path", "/v1/models/" + "%41" * (most // 3)),
    ):
        yield Shape(f"head: {name}", path, method="GET")
    for name, headers in (
        ("a long header", [("X-Long", "x" * most)]),
        ("too long", [("X-Long", "x" * (most + 100_000))]),
        ("many headers", [(f"X-{number}", "x" * 40) for number in range(16_000)]),
        ("Origin", [("Origin", "http://" + "a." * (most // 2))]),
        ("Cookie", [("Cookie", "a=b;" * (most // 4))]),
        ("request id", [("X-Request-Id", "a" * most)]),
    ):
        yield Shape(f"head: {name}", "/api/tags", method="GET", headers=headers)
