"""The command line: texts, columns and exit statuses of every command, each with its own store or server.

Most commands run in this process through click's runner; the server in the foreground runs as a process, as users
start it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from cli_world import NO_DRIVER, ok, some_device
from live_server import LiveServer, free_port
from places import ROOT
from tiny_gguf import write_tiny_gguf

from vkbackend import settings
from vkbackend.server.cli import digests

# --- commands without a server


def test_help_lists_commands_and_every_variable(here):
    text = ok(here("--help"))
    for command in ("serve", "run", "create", "list", "ps", "show", "rm", "cp", "stop", "devices", "check", "bench"):
        assert re.search(rf"^  {command} ", text, re.MULTILINE), command
    for row in settings.ROWS:
        assert row.name in text and row.name in ok(here("serve", "--help"))


def test_help_shows_defaults_as_users_write_them(here):
    text = " ".join(ok(here("serve", "--help")).split())
    for shown in ("1", "ollama.com", "256 MiB", "1 GiB", "5m"):
        assert f"(default {shown})" in text
    assert not re.search(r"\(default (True|False|\[|\d{7})", text)


def test_the_list_of_commands_shows_whole_sentences(here):
    commands = ok(here("--help")).split("Commands:\n")[1].split("\n\n")[0]
    assert "..." not in commands and all(line.endswith(".") for line in commands.splitlines())


def test_version(here):
    assert re.fullmatch(r"vkbackend version is \d+\.\d+\.\d+\n", ok(here("--version")))


def test_errors_say_what_and_exit_with_1(here, monkeypatch):
    monkeypatch.setenv(
        "VKBACKEND_REGISTRY_URLS", "registry.ollama.ai=http://127.0.0.1:1"
    )  # where `run` looks for what is not there
    for arguments, words in (
        (["nonsense"], 'unknown command "nonsense"'),
        (["ps"], "could not connect to a server at http://127.0.0.1:"),
        (["stop", "x"], "start one with `vkbackend serve`"),
        (["show", "x"], "Error: model 'x' not found"),
        (["rm", "x"], "Error: model 'x' not found"),
        (["cp", "x", "y"], 'model "x" not found'),
        (["run", "x", "hello"], "refused"),
        (["run", "no.gguf", "hello"], "no.gguf: no such file"),
        (["create", "x"], "Modelfile: no such file"),
        (["create", "x", "--gguf", "no.gguf"], "no.gguf: no such file"),
        (["bench", "x", "--cpu"], "model 'x' not found"),
        (["bench", "no.gguf"], "no.gguf: no such file"),
        (["run", "x", "--keepalive", "5 minutes"], "time: "),
        (["run", "x", "--format", "xml"], "invalid response format"),
        (["run", "x", "--think", "perhaps"], "invalid value for --think"),
        (["check", "--only", "zzz"], "available: add"),
    ):
        result = here(*arguments)
        assert (result.exit_code, result.stderr.splitlines()[-1].startswith("Error: ")) == (1, True), (
            arguments
        )  # after what was tried
        assert words in result.stderr, arguments
        assert result.stdout == "", arguments


def test_other_machines_are_never_replaced_by_this_one(here, monkeypatch, gguf):
    monkeypatch.setenv("OLLAMA_HOST", "name.invalid:1")
    for arguments in (["list"], ["create", "x", "--gguf", gguf], ["run", "x", "hello"]):
        result = here(*arguments)
        assert result.exit_code == 1 and "could not connect" in result.stderr, arguments
    assert not settings.models_folder().exists()


def test_create_from_gguf_once(here, gguf, tmp_path):
    assert "success" in here("create", "tiny", "--gguf", gguf).stderr
    manifest = next((tmp_path / "models" / "manifests").rglob("latest"))
    written = manifest.stat().st_mtime_ns
    assert "already exists" in ok(here("create", "tiny", "--gguf", gguf))
    assert manifest.stat().st_mtime_ns == written
    assert re.fullmatch(
        r"NAME +ID +SIZE +MODIFIED\ntiny:latest    [0-9a-f]{12}    [0-9.]+ [KM]B +\S.* ago\n", ok(here("list"))
    )
    assert ok(here("ls", "other")).split() == ["NAME", "ID", "SIZE", "MODIFIED"]


@pytest.mark.parametrize("way", ["here", "online"])
def test_create_says_which_layers_are_new(request, tmp_path, way):
    vkbackend, file = request.getfixturevalue(way), write_tiny_gguf(tmp_path / "new.gguf", seed=5)
    layer = re.compile(r"(creating new|using existing) layer " + digests.file_digest(file))
    assert layer.findall(vkbackend("create", "one", "--gguf", file).stderr) == ["creating new"]
    assert layer.findall(vkbackend("create", "two", "--gguf", file).stderr) == ["using existing"]
    ok(vkbackend("rm", "one", "two"))


def test_create_again_where_file_or_blob_changed(here, tmp_path):
    file = write_tiny_gguf(tmp_path / "x.gguf")
    ok(here("create", "tiny", "--gguf", file))
    before = digests.file_digest(file)
    write_tiny_gguf(file, seed=1)
    assert "already" not in ok(here("create", "tiny", "--gguf", file))
    after = digests.file_digest(file)
    assert after != before
    blob = tmp_path / "models" / "blobs" / after.replace(":", "-")
    blob.unlink()
    assert "already" not in ok(here("create", "tiny", "--gguf", file)) and blob.exists()


def test_remembered_digest_is_not_computed_again(here, tmp_path, monkeypatch):
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    assert digests.file_digest(file) == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    monkeypatch.setattr(digests, "_compute", lambda *_: pytest.fail("read again"))
    assert digests.file_digest(file).startswith("sha256:ba78")
    monkeypatch.undo()
    (settings.cache_folder() / "digests.json").write_text("damaged")
    assert digests.file_digest(file).startswith("sha256:ba78")


def test_modelfile_with_missing_file_or_bad_line(here, tmp_path):
    for text, words in (
        ("FROM ./gone.gguf", "FROM ./gone.gguf: no such file"),
        ("SYSTEM x", "no FROM line"),
        ("FROM x\nPARAMETER top_k a", "invalid int value [a]"),
    ):
        (tmp_path / "Modelfile").write_text(text)
        result = here("create", "x", "-f", tmp_path / "Modelfile")
        assert result.exit_code == 1 and words in result.stderr


def test_run_serves_itself(here, gguf):
    result = here("run", gguf, "hello", "there", "--verbose", input="")
    text = ok(result)
    assert text.endswith("\n\n") and "\x1b[3" not in text  # no colours in a pipe
    assert re.search(r"^eval rate:            [0-9.]+ tokens/s$", result.stderr, re.MULTILINE)
    assert "tiny:latest" in ok(here("list"))


# --- through a server


@pytest.fixture(scope="module")
def server(tmp_path_factory, gguf):
    cache = settings.cache_folder()
    with LiveServer(
        tmp_path_factory.mktemp("models"), environment={"OLLAMA_VULKAN": "0", "VKBACKEND_CACHE": str(cache)}
    ) as live:
        yield live


@pytest.fixture
def online(here, server, monkeypatch, tmp_path, gguf):
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    (tmp_path / "Modelfile").write_text(
        f'FROM {gguf}\nSYSTEM """Be brief.\nBe kind.\nBe right."""\nPARAMETER num_predict 4\nPARAMETER seed '
        f"1\nLICENSE MIT\n"
    )
    result = here("create", "m", "-f", tmp_path / "Modelfile")
    assert result.exit_code == 0 and result.stderr.splitlines()[-1] == "success", result.output
    return here


def test_models_through_a_server(online, gguf):
    text = ok(online("show", "m"))
    assert re.search(
        r"^  Model\n    architecture        llama\n    parameters          \S+\n    context length      512\n", text
    )
    assert "\n  Capabilities\n    completion\n" in text
    assert re.search(r"\n  Parameters\n(    \w+ +\S+\n)*    num_predict +4\n", text)
    assert "\n  System\n    Be brief.\n    Be kind.\n    ...\n" in text and "\n  License\n    MIT\n" in text
    assert ok(online("show", "m", "--system")) == "Be brief.\nBe kind.\nBe right.\n"
    for views in (("--system", "--license"), ("--memory", "--license")):
        assert (
            "only one of --license, --modelfile, --parameters, --system, --template, --memory can be shown at a time"
            in online("show", "m", *views).stderr
        )
    assert "FROM " in ok(online("show", "m", "--modelfile"))
    assert "general.architecture" in ok(online("show", "m", "-v"))
    header, cpu, _, cache, verdict = ok(online("show", "m", "--memory", "--num-ctx", "256")).splitlines()
    assert header.split() == "PLACE LAYERS WEIGHTS MAPPED CACHE SCRATCH LOADING TOTAL FREE VERDICT".split()
    assert re.fullmatch(r"CPU +3( +[\d.]+ [KMG]?i?B){7} +fits", cpu), cpu
    assert cache == "The cache has room for 256 tokens (f16)." and verdict == "The model fits."
    assert "model 'other' not found" in online("show", "other", "--memory").stderr
    lines = ok(online("show", "m", "--memory", "--num-ctx", "513")).splitlines()
    assert lines[3] == "The model was trained with a context of 512 tokens, not 513; 512 are counted."
    for arguments, words in (
        (("--memory", "--num-ctx", "0"), "Invalid value for '--num-ctx': 0 is not in the range 1<=x<=2147483647."),
        (("--memory", "--num-ctx", "2147483648"), "2147483648 is not in the range 1<=x<=2147483647."),
        (("--num-ctx", "256"), "--num-ctx requires --memory"),
        (("--memory", "-v"), "--verbose cannot be used with --memory"),
    ):
        result = online("show", "m", *arguments)
        assert result.exit_code and words in result.stderr and not result.stdout, result.stderr
    assert ok(online("cp", "m", "n")) == "copied 'm' to 'n'\n"
    assert {line.split()[0] for line in ok(online("list")).splitlines()} >= {"NAME", "m:latest", "n:latest"}
    assert ok(online("rm", "n", "m")) == "deleted 'n'\ndeleted 'm'\n"
    assert ok(online("list")).split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert online("stop", "m").stderr == """Error: couldn't find model "m" to stop\n"""
    ok(online("create", "g", "--gguf", gguf))
    assert "already exists" in ok(online("create", "g", "--gguf", gguf))


def test_run_ps_stop_through_a_server(online):
    assert ok(online("run", "m", "hello")) == ok(online("run", "m", input="hello"))  # the seed is set
    header, line = ok(online("ps")).splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert re.fullmatch(r"m:latest    [0-9a-f]{12}    \S+ [KMG]B    100% CPU +\d+ +\S.* from now", line)
    ok(online("stop", "m"))
    assert len(ok(online("ps")).splitlines()) == 1


# --- serve, as a process


class Served:
    """A process of `vkbackend serve`. ready: its first output lines."""

    def __init__(self, models_folder, environment=None, command=("-m", "vkbackend", "serve")):
        self.port = free_port()
        environment = (
            os.environ
            | {"OLLAMA_HOST": f"127.0.0.1:{self.port}", "OLLAMA_MODELS": str(models_folder)}
            | (environment or {})
        )
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.ready = [self.process.stdout.readline() for _ in range(3)]

    def stop(self, number=signal.SIGTERM):
        """Return (exit status, seconds it took, log)."""
        start = time.monotonic()
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=20)
        return self.process.returncode, time.monotonic() - start, log


def test_serve_says_where_and_on_what_and_ends_at_once(here, tmp_path, gguf):
    ok(here("create", "tiny", "--gguf", gguf))
    served = Served(tmp_path / "models", NO_DRIVER | {"OLLAMA_VULKAN": "1", "VKBACKEND_DRAIN_SECONDS": "0"})
    try:
        url = f"http://127.0.0.1:{served.port}"
        assert re.match(rf"vkbackend [\d.]+ is ready at {url} ", served.ready[0])
        assert "CPU, although OLLAMA_VULKAN is set: " in served.ready[1]
        assert f"curl {url}/api/generate" in served.ready[2] and '"tiny"' in served.ready[2]
        second = subprocess.run(
            [sys.executable, "-m", "vkbackend", "serve"],
            cwd=ROOT,
            env=os.environ | {"OLLAMA_HOST": url},
            capture_output=True,
            text=True,
        )
        assert second.returncode == 1 and re.match(
            r"Error: listen tcp 127.0.0.1:\d+: bind: address already in use", second.stderr
        )
        body = json.dumps({"model": "tiny", "prompt": "hello", "options": {"num_predict": -1, "num_ctx": 512}}).encode()
        answering = urllib.request.urlopen(urllib.request.Request(url + "/api/generate", body), timeout=20)
        assert "response" in json.loads(answering.readline())
    finally:
        status, seconds, log = served.stop()
    answering.close()
    assert status == 0 and seconds < 4, log  # 2 seconds and a process's own end on a busy machine
    assert "no usable Vulkan device" in log and "Traceback" not in log


@pytest.mark.parametrize("drain, length", [("20", 200), ("1", -1)])
def test_serve_lets_streams_end_before_it_does(here, tmp_path, gguf, drain, length):
    """A stream that ends soon is completed; a long one gets a last line, and the log an entry."""
    ok(here("create", "tiny", "--gguf", gguf))
    served = Served(tmp_path / "models", {"VKBACKEND_DRAIN_SECONDS": drain, "VKBACKEND_LOG_FORMAT": "json"})
    no_end = {
        "num_ctx": 512,
        "seed": 1,
        "top_k": 200,
        "top_p": 1,
        "temperature": 3,
        "logit_bias": {"0": -100, "1": -100, "2": -100},
    }
    body = json.dumps({"model": "tiny", "prompt": "hello", "options": no_end | {"num_predict": length}}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{served.port}/api/generate", body, {"X-Request-Id": "the-last-one"}
    )
    lines = []
    with urllib.request.urlopen(request, timeout=20) as answer:
        lines.append(json.loads(answer.readline()))
        reading = threading.Thread(target=lambda: lines.extend(map(json.loads, answer)))
        reading.start()
        status, seconds, log = served.stop()
        reading.join()
    assert status == 0 and "Traceback" not in log
    entries = [json.loads(line) for line in log.splitlines()]
    assert any(entry.get("request_id") == "the-last-one" and entry.get("path") == "/api/generate" for entry in entries)
    if length > 0:
        assert lines[-1]["done"] and lines[-1]["eval_count"] == length and seconds < 20, lines[-1]
    else:
        assert "shutting down" in lines[-1].get("error", "") and 1 <= seconds < 6, lines[-1]
        assert any("cancelling 1 running requests" in entry["message"] for entry in entries)


def test_serve_logs_every_device(here, tmp_path):
    device = some_device()
    served = Served(tmp_path / "models", {"OLLAMA_VULKAN": "1"})
    status, _, log = served.stop(signal.SIGINT)
    assert status == 0
    assert device.name in served.ready[1] and "vkbackend create" in served.ready[2]
    assert f"device {device.index}: {device.name}: {device.type.name.lower()}, {device.driver}" in log


def test_serve_ends_while_a_model_does_not(here, tmp_path, gguf):
    """A load of half a minute must not delay the end of the process."""
    ok(here("create", "tiny", "--gguf", gguf))
    loading = tmp_path / "loading"
    program = (
        f"import pathlib, time, vkbackend.server.serving as serving; begun = pathlib.Path({str(loading)!r})\n"
        "serving.EngineLoader.load = lambda *_: (begun.touch(), time.sleep(30))\n"
        "from vkbackend.server.cli.main import cli; cli(['serve'])"
    )
    served = Served(tmp_path / "models", {"VKBACKEND_DRAIN_SECONDS": "0"}, command=["-c", program])
    body = json.dumps({"model": "tiny", "prompt": "hello"}).encode()
    asking = threading.Thread(
        target=lambda: pytest.raises(
            OSError, urllib.request.urlopen, f"http://127.0.0.1:{served.port}/api/generate", body
        )
    )
    asking.start()
    deadline = time.monotonic() + 20
    while not loading.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    status, seconds, log = served.stop()
    asking.join()
    assert loading.exists() and status == 0 and 1.5 < seconds < 4, log
    assert "exiting without it" in log and "Traceback" not in log
