"""Parts of the command line that need no server: addresses, create requests, printed text, conversation commands."""

import base64
import io
import json
import re
import sys
import time
from pathlib import Path

import pytest
from shared_data import shared

from vkbackend.server.cli import digests, interactive, models, run
from vkbackend.server.cli.modelfile_request import ModelfileProblem, create_request
from vkbackend.server.cli.terminal import answer, colours, table
from vkbackend.server.go import encode
from vkbackend.server.http import address
from vkbackend.server.library.modelfile import parse

# --- addresses


def test_address_as_recorded():
    vectors = [
        vector for vector in json.loads((shared("vectors") / "env_config.json").read_text()) if vector["kind"] == "host"
    ]
    assert vectors
    for vector in vectors:
        found = address.parse(vector["env"].get("OLLAMA_HOST", ""))
        assert {"host": found.host_port, "path": found.path, "scheme": found.scheme, "url": found.url} == vector[
            "output"
        ], vector["name"]


@pytest.mark.parametrize(
    "text, url, is_local",
    [
        ("0.0.0.0:80", "http://127.0.0.1:80", True),
        ("[::]:9", "http://[::1]:9", True),
        (":7", "http://127.0.0.1:7", True),
        ("localhost", "http://localhost:11434", True),
        ("10.1.2.3", "http://10.1.2.3:11434", False),
        ("https://gpu.example/x", "https://gpu.example:443/x", False),
    ],
)
def test_address_for_clients(text, url, is_local):
    assert (address.parse(text).for_clients.url, address.parse(text).is_local) == (url, is_local)


# --- Modelfile -> create request


def test_create_request_as_recorded(tmp_path):
    checked = 0
    for vector in json.loads((shared("vectors") / "modelfile.json").read_text()):
        if "create_request" not in vector and "create_error" not in vector:
            continue
        commands = parse(vector["input"] if "input" in vector else base64.b64decode(vector["input_b64"]))
        checked += 1
        if "create_error" in vector:
            with pytest.raises(ModelfileProblem) as caught:
                create_request(commands, tmp_path, digests.file_digest)
            assert str(caught.value) == vector["create_error"].replace("<<DIR>>", str(tmp_path)), vector["name"]
        else:
            request, files = create_request(commands, tmp_path, digests.file_digest)
            assert json.loads(encode.dumps(request)) == vector["create_request"], vector["name"]
            assert files == {}
    assert checked > 30


def test_adapter_names_a_file_or_a_folder(tmp_path):
    for folder, names in (
        ("peft", ("adapter_model.safetensors", "adapter_config.json", "README.md")),
        ("g", ("a.gguf",)),
    ):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    peft = ["adapter_config.json", "adapter_model.safetensors"]
    for text, names in (
        ("./peft", peft),
        ("peft/adapter_model.safetensors", peft),
        ("g", ["a.gguf"]),
        ("g/a.gguf", ["a.gguf"]),
    ):
        request, files = create_request(parse(f"FROM m\nADAPTER {text}"), tmp_path, lambda path: f"sha256:{path.name}")
        assert sorted(request.adapters) == names == sorted(path.name for path in files.values())
    for text, words in (("empty", "no Modelfile or safetensors files found"), ("gone", "no such file or directory")):
        with pytest.raises(ModelfileProblem, match=words):
            create_request(parse(f"FROM m\nADAPTER {text}"), tmp_path, str)


def test_from_names_files_next_to_the_modelfile(tmp_path):
    (tmp_path / "weights").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "weights" / name).write_bytes(name.encode())
    request, files = create_request(parse("FROM ./weights/a.gguf"), tmp_path, lambda path: f"sha256:{path.name}")
    assert (
        request.files == {"a.gguf": "sha256:a.gguf"}
        and files == {"sha256:a.gguf": tmp_path / "weights" / "a.gguf"}
        and not request.from_
    )
    request, _ = create_request(parse("FROM weights"), tmp_path, lambda path: f"sha256:{path.name}")
    assert sorted(request.files) == ["a.gguf", "b.gguf"]


# --- what is printed


def test_columns():
    assert table.columns([["a", "bbb"], ["cc"]], ["X", "Y"], "  ") == ["  X     Y", "  a     bbb", "  cc"]


@pytest.mark.parametrize(
    "size, vram, words",
    [(10, 0, "100% CPU"), (10, 10, "100% GPU"), (100, 75, "25%/75% CPU/GPU"), (10, 11, "Unknown"), (0, 0, "100% CPU")],
)
def test_processor(size, vram, words):
    assert models.processor(size, vram) == words


def test_age_reads_every_form_of_the_time():
    now = time.time_ns()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
    for text in (f"{stamp}Z", f"{stamp}.123456789Z", f"{stamp}.5+00:00"):
        assert abs(models.age(text)) < 5 * 10**9
    assert abs(models.age(f"{stamp}-02:00") + 7200 * 10**9) < 5 * 10**9
    assert models.age("0001-01-01T00:00:00Z") is None and models.until("0001-01-01T00:00:00Z") == "Never"
    assert models.until("2001-01-01T00:00:00Z") == "Stopping..."
    assert models.until(f"{int(stamp[:4]) + 292}-01-01T00:00:00Z") == "Forever"


def token(text, logprob, encoded=None):
    return {"token": text, "logprob": logprob, "bytes": list(encoded if encoded is not None else text.encode())}


def test_text_finds_its_tokens():
    joined = colours.TokenText()
    assert joined.feed("Hello", [token("He", 0.0), token("llo", -1.0)]) == [
        ("He", 1.0),
        ("llo", pytest.approx(0.3679, abs=1e-4)),
    ]
    # A character of two tokens comes with the second; it belongs to the first.
    assert joined.feed("", [token("�", -0.5, b"\xf0\x9f")]) == []
    assert joined.feed("😀!", [token("�", -2.0, b"\x98\x80"), token("!", 0.0)]) == [
        ("😀", pytest.approx(0.6065, abs=1e-4)),
        ("!", 1.0),
    ]
    # Text held back for a stop string comes later than its tokens; text without tokens stays uncoloured.
    assert joined.feed("a", [token("ab", 0.0)]) == [("a", 1.0)]
    assert joined.feed("b", []) == [("b", 1.0)]
    assert joined.feed("rest", None) == [("rest", None)]
    # Two tokens of the same probability stay two pieces.
    assert joined.feed("xy", [token("x", 0.0), token("y", 0.0)]) == [("x", 1.0), ("y", 1.0)]


def test_colours_go_from_green_over_yellow_to_red(monkeypatch):
    green, yellow, red = colours.rgb(1), colours.rgb(0.5), colours.rgb(0)
    assert green[0] < 50 < green[1] and min(yellow[:2]) > 150 and red[1] < 50 < red[0]
    monkeypatch.setattr("sys.stdout", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert colours.wanted(False) and not colours.wanted(True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours.wanted(False)


def test_an_interrupted_piece_is_not_printed_again(monkeypatch):
    """Ctrl-C while a coloured piece is written: only the end and the legend follow."""

    class Terminal(io.StringIO):
        interrupts = 1

        def isatty(self):
            return True

        def flush(self):
            if self.interrupts and "ka" in self.getvalue():
                self.interrupts = 0
                raise KeyboardInterrupt

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    printer = answer._Printer(answer.Printing(coloured=True))
    printer.text("say", [{"token": "say", "logprob": -0.1}])
    with pytest.raises(KeyboardInterrupt):
        printer.text("ka", [{"token": "ka", "logprob": -2.0}])
    printer.end()
    printed = terminal.getvalue()
    assert "\x1b[38;" in printed
    assert re.sub(r"\x1b\[[0-9;]*m", "", printed) == "sayka\n\nprobability:  100%  75%  50%  25%  5% \n"


def test_control_characters_do_not_reach_a_terminal(capsys):
    printing = answer._Printer(answer.Printing())
    printing.is_terminal = True
    printing.text("a\tb\n\x1b[2Jc\x9b\r\x08d", None)
    assert capsys.readouterr().out == "a\tb\n\ufffd[2Jc\ufffd\ufffd\ufffdd"
    printing.is_terminal = False
    printing.text("\x1bd", None)
    assert capsys.readouterr().out == "\x1bd"


def test_the_likeliest_in_each_tokens_place():
    entries = [token("He", -0.1) | {"top_logprobs": [token("He", -0.1), token("\x1b[2J", -3.0)]}, token("llo", 0.0)]
    assert answer.alternatives(entries) == [
        "TOKEN    PROBABILITY    LIKELIEST",
        '"He"     90.5%          "He" 90.5%  "\ufffd[2J" 5.0%',
        '"llo"    100.0%',
    ]


def test_a_conversation_shows_what_else_was_likely(talk, capsys):
    chat, client = talk
    assert chat.handle("/set logprobs 3") and chat.handle("hello")
    assert client.chats[0]["logprobs"] is True and client.chats[0]["top_logprobs"] == 3
    assert "TOKEN    PROBABILITY    LIKELIEST" in capsys.readouterr().out
    assert chat.handle("/set nologprobs") and chat.handle("hello") and "logprobs" not in client.chats[1]


def test_timings():
    last = {
        "total_duration": 1_500_000_000,
        "load_duration": 2_000_000,
        "prompt_eval_count": 10,
        "prompt_eval_duration": 500_000_000,
        "eval_count": 3,
        "eval_duration": 1_000_000_000,
    }
    assert answer.timings(last) == [
        "total duration:       1.5s",
        "load duration:        2ms",
        "prompt eval count:    10 token(s)",
        "prompt eval duration: 500ms",
        "prompt eval rate:     20.00 tokens/s",
        "eval count:           3 token(s)",
        "eval duration:        1s",
        "eval rate:            3.00 tokens/s",
    ]


@pytest.mark.parametrize(
    "path, name",
    [("a/SmolLM2-135M.Q4_1.gguf", "SmolLM2-135M.Q4_1"), ("my model (1).gguf", "my-model-1"), ("...gguf", "model")],
)
def test_name_of_file(path, name):
    assert run.name_of_file(Path(path)) == name


# --- conversation


class FakeClient:
    """Keeps its requests and answers every message with its number."""

    def __init__(self):
        self.chats, self.calls = [], []

    def stream(self, path, body):
        self.chats.append(body)
        yield {"message": {"role": "assistant", "content": f"answer {len(self.chats)}"}, "done": False}
        yield {"message": {"role": "assistant", "content": ""}, "done": True, "eval_count": 2, "eval_duration": 10**9}

    def call(self, method, path, body=None):
        self.calls.append((path, body))
        return {}


@pytest.fixture
def talk():
    client = FakeClient()
    return interactive.Conversation(
        client, "m", {"system": "from the model", "license": "MIT"}, {}, answer.Printing()
    ), client


def test_conversation_keeps_history_until_cleared(talk, capsys):
    chat, client = talk
    assert chat.handle("one") and chat.handle("two")
    assert [message["content"] for message in client.chats[1]["messages"]] == ["one", "answer 1", "two"]
    chat.handle("/clear")
    chat.handle("/set system Be brief.")
    chat.handle("three")
    assert [message["content"] for message in client.chats[2]["messages"]] == ["Be brief.", "three"]
    assert "answer 3" in capsys.readouterr().out
    assert chat.keeps_lines and chat.handle("/set nohistory") and not chat.keeps_lines  # of typed lines, as in Ollama
    assert not chat.handle("/bye")


def test_conversation_settings(talk, capsys):
    chat, client = talk
    for line in (
        "/set parameter temperature 0.5",
        "/set parameter stop a b",
        "/set parameter top_k x",
        "/set parameter zzz 1",
        "/set format json",
        "/set think",
        "/set verbose",
        "/nonsense",
        "/set nonsense",
        "/show license",
        "/show system",
        "/set wordwrap",
        "/set",
        "/show",
        "/show x",
        "/? shortcuts",
        "/? set",
        "/?",
        "/list",
        "/set parameter",
        "/set think high",
        "/set think",
    ):
        assert chat.handle(line)
    printed = capsys.readouterr().out
    for words in (
        "Set parameter 'temperature' to '0.5'",
        "invalid int value [x]",
        "unknown parameter 'zzz'",
        "Unknown command '/nonsense'",
        "Unknown command '/set nonsense'",
        "MIT",
        "from the model",
        "Set 'wordwrap' mode.",
        "/set think, nothink",
        "/show info | license | modelfile",
        "Ctrl-C           stop the answer",
        "/save MODEL",
        "NAME    ID    SIZE    MODIFIED",
        "/set parameter stop TEXT",
        "Unknown command '/show x'",
        "Set 'think' mode to 'high'",
    ):
        assert words in printed
    chat.handle("hello")
    assert client.chats[0]["options"] == {"temperature": 0.5, "stop": ["a", "b"]}
    assert client.chats[0]["format"] == "json" and client.chats[0]["think"] is True
    assert "eval rate:            2.00 tokens/s" in capsys.readouterr().err
    chat.handle("/save copy")
    assert client.calls[-1][1]["from"] == "m" and len(client.calls[-1][1]["messages"]) == 2
    chat.handle("/load other")
    assert chat.model == "other" and chat.messages == [] and "Loading model 'other'" in capsys.readouterr().out
    assert client.calls[-1] == ("/api/generate", {"model": "other", "stream": False})


@pytest.mark.parametrize(
    "lines, message",
    [
        (["hello"], "hello"),
        (['"""one', "two", 'three"""'], "one\ntwo\nthree"),
        (['"""same line"""'], "same line"),
        (['/set system """a', 'b"""'], "/set system a\nb"),
    ],
)
def test_messages_of_several_lines(lines, message):
    rest = iter(lines)
    assert interactive.read_message(lambda is_first: next(rest)) == message
    assert list(rest) == []
