"""The command line: words, columns and exit statuses of every command, against stores and servers of their own.

Most commands run in this process through click's runner; the server in the foreground runs as a process, as users start it.
"""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from live_server import LiveServer, free_port
from shared_data import shared
from tiny_gguf import write_tiny_gguf

from server import address, go_json
from server.cli import answer, colours, conversation, digests, models, run, table
from server.cli.main import cli
from server.cli.modelfile_request import ModelfileProblem, create_request
from server.modelfile import ModelfileError, parse
from vkbackend import settings
from vkbackend.device.discover import list_devices
from vkbackend.errors import NoDevice

ROOT = Path(__file__).resolve().parents[1]
NO_DRIVER = {"VK_DRIVER_FILES": "/nowhere.json", "VK_ICD_FILENAMES": "/nowhere.json"}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty store and nobody listening. -> run(*arguments, input) -> click's result."""
    caches = settings.cache_folder()
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("VKBACKEND_CACHE", str(_cache(tmp_path, caches)))
    monkeypatch.delenv("OLLAMA_VULKAN", raising=False)
    return lambda *arguments, input="": CliRunner().invoke(cli, [str(argument) for argument in arguments], input=input)


def _cache(tmp_path, caches) -> Path:
    """A cache folder without remembered digests, but with the compiled shaders."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for name in ("spirv", "pipelines"):
        if (caches / name).is_dir():
            (folder / name).symlink_to(caches / name)
    return folder


def ok(result):
    assert result.exit_code == 0, result.output
    return result.stdout


def some_device():
    try:
        return list_devices()[0]
    except NoDevice as error:
        pytest.skip(f"no Vulkan device: {error}")


# --- addresses

def test_address_as_recorded():
    vectors = [vector for vector in json.loads((shared("vectors") / "env_config.json").read_text()) if vector["kind"] == "host"]
    assert vectors
    for vector in vectors:
        found = address.parse(vector["env"].get("OLLAMA_HOST", ""))
        assert {"host": found.host_port, "path": found.path, "scheme": found.scheme, "url": found.url} == vector["output"], vector["name"]


@pytest.mark.parametrize("text, url, is_local", [
    ("0.0.0.0:80", "http://127.0.0.1:80", True), ("[::]:9", "http://[::1]:9", True), (":7", "http://127.0.0.1:7", True),
    ("localhost", "http://localhost:11434", True), ("10.1.2.3", "http://10.1.2.3:11434", False), ("https://gpu.example/x", "https://gpu.example:443/x", False)])
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
            assert json.loads(go_json.dumps(request)) == vector["create_request"], vector["name"]
            assert files == {}
    assert checked > 30


def test_from_names_files_beside_the_modelfile(tmp_path):
    (tmp_path / "weights").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "weights" / name).write_bytes(name.encode())
    request, files = create_request(parse("FROM ./weights/a.gguf"), tmp_path, lambda path: f"sha256:{path.name}")
    assert request.files == {"a.gguf": "sha256:a.gguf"} and files == {"sha256:a.gguf": tmp_path / "weights" / "a.gguf"} and not request.from_
    request, _ = create_request(parse("FROM weights"), tmp_path, lambda path: f"sha256:{path.name}")
    assert sorted(request.files) == ["a.gguf", "b.gguf"]


# --- commands without a server

def test_help_lists_commands_and_every_variable(here):
    text = ok(here("--help"))
    for command in ("serve", "run", "create", "list", "ps", "show", "rm", "cp", "stop", "devices", "check", "bench"):
        assert re.search(rf"^  {command} ", text, re.MULTILINE), command
    for row in settings.ROWS:
        assert row.name in text and row.name in ok(here("serve", "--help"))


def test_version(here):
    assert re.fullmatch(r"vkbackend version is \d+\.\d+\.\d+\n", ok(here("--version")))


def test_errors_say_what_and_exit_with_1(here):
    for arguments, words in ((["nonsense"], 'unknown command "nonsense"'), (["ps"], "could not connect to a server at http://127.0.0.1:"),
                             (["stop", "x"], "start one with `vkbackend serve`"), (["show", "x"], "Error: model 'x' not found"),
                             (["rm", "x"], "Error: model 'x' not found"), (["cp", "x", "y"], 'model "x" not found'),
                             (["run", "x", "hello"], "Error: model 'x' not found"), (["run", "no.gguf", "hello"], "no.gguf: no such file"),
                             (["create", "x"], "Modelfile: no such file"), (["create", "x", "--gguf", "no.gguf"], "no.gguf: no such file"),
                             (["bench", "x", "--cpu"], "model 'x' not found"), (["bench", "no.gguf"], "no.gguf: no such file"),
                             (["run", "x", "--keepalive", "5 minutes"], "time: "), (["run", "x", "--format", "xml"], "invalid response format"),
                             (["run", "x", "--think", "perhaps"], "invalid value for --think"), (["check", "--only", "zzz"], "there are: embed")):
        result = here(*arguments)
        assert (result.exit_code, result.stderr.startswith("Error: ")) == (1, True), arguments
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
    assert "is there already" in ok(here("create", "tiny", "--gguf", gguf))
    assert manifest.stat().st_mtime_ns == written
    assert re.fullmatch(r"NAME +ID +SIZE +MODIFIED\ntiny:latest    [0-9a-f]{12}    [0-9.]+ [KM]B +\S.* ago\n", ok(here("list")))
    assert ok(here("ls", "other")).split() == ["NAME", "ID", "SIZE", "MODIFIED"]


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
    for text, words in (("FROM ./gone.gguf", "FROM ./gone.gguf: no such file"), ("SYSTEM x", "no FROM line"), ("FROM x\nPARAMETER top_k a", "invalid int value [a]")):
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
    with LiveServer(tmp_path_factory.mktemp("models"), environment={"OLLAMA_VULKAN": "0", "VKBACKEND_CACHE": str(cache)}) as live:
        yield live


@pytest.fixture
def online(here, server, monkeypatch, tmp_path, gguf):
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    (tmp_path / "Modelfile").write_text(f'FROM {gguf}\nSYSTEM """Be brief.\nBe kind.\nBe right."""\nPARAMETER num_predict 4\nPARAMETER seed 1\nLICENSE MIT\n')
    result = here("create", "m", "-f", tmp_path / "Modelfile")
    assert result.exit_code == 0 and result.stderr.splitlines()[-1] == "success", result.output
    return here


def test_models_through_a_server(online, gguf):
    text = ok(online("show", "m"))
    assert re.search(r"^  Model\n    architecture        llama\n    parameters          \S+\n    context length      512\n", text)
    assert "\n  Capabilities\n    completion\n" in text
    assert re.search(r"\n  Parameters\n(    \w+ +\S+\n)*    num_predict +4\n", text)
    assert "\n  System\n    Be brief.\n    Be kind.\n    ...\n" in text and "\n  License\n    MIT\n" in text
    assert ok(online("show", "m", "--system")) == "Be brief.\nBe kind.\nBe right.\n"
    assert "FROM " in ok(online("show", "m", "--modelfile"))
    assert "general.architecture" in ok(online("show", "m", "-v"))
    assert ok(online("cp", "m", "n")) == "copied 'm' to 'n'\n"
    assert {line.split()[0] for line in ok(online("list")).splitlines()} >= {"NAME", "m:latest", "n:latest"}
    assert ok(online("rm", "n", "m")) == "deleted 'n'\ndeleted 'm'\n"
    assert ok(online("list")).split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert online("stop", "m").stderr == "Error: couldn't find model \"m\" to stop\n"
    ok(online("create", "g", "--gguf", gguf))
    assert "is there already" in ok(online("create", "g", "--gguf", gguf))


def test_run_ps_stop_through_a_server(online):
    assert ok(online("run", "m", "hello")) == ok(online("run", "m", input="hello"))  # the seed is set
    header, line = ok(online("ps")).splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert re.fullmatch(r"m:latest    [0-9a-f]{12}    \S+ [KMG]B    100% CPU +\d+ +\S.* from now", line)
    ok(online("stop", "m"))
    assert len(ok(online("ps")).splitlines()) == 1


# --- serve, as a process

class Served:
    """`vkbackend serve`, its first output lines in `ready`."""

    def __init__(self, models_folder, environment=None, command=("-m", "vkbackend", "serve")):
        self.port = free_port()
        environment = os.environ | {"OLLAMA_HOST": f"127.0.0.1:{self.port}", "OLLAMA_MODELS": str(models_folder)} | (environment or {})
        self.process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.ready = [self.process.stdout.readline() for _ in range(3)]

    def stop(self, number=signal.SIGTERM):
        """-> (exit status, seconds it took, log)."""
        start = time.monotonic()
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=20)
        return self.process.returncode, time.monotonic() - start, log


def test_serve_says_where_and_on_what_and_ends_at_once(here, tmp_path, gguf):
    ok(here("create", "tiny", "--gguf", gguf))
    served = Served(tmp_path / "models", NO_DRIVER | {"OLLAMA_VULKAN": "1"})
    try:
        url = f"http://127.0.0.1:{served.port}"
        assert re.match(rf"vkbackend [\d.]+ is ready at {url} ", served.ready[0])
        assert "CPU, although OLLAMA_VULKAN is set: " in served.ready[1]
        assert f"curl {url}/api/generate" in served.ready[2] and '"tiny"' in served.ready[2]
        second = subprocess.run([sys.executable, "-m", "vkbackend", "serve"], cwd=ROOT, env=os.environ | {"OLLAMA_HOST": url}, capture_output=True, text=True)
        assert second.returncode == 1 and re.match(r"Error: listen tcp 127.0.0.1:\d+: bind: address already in use", second.stderr)
        body = json.dumps({"model": "tiny", "prompt": "hello", "options": {"num_predict": -1, "num_ctx": 512}}).encode()
        answering = urllib.request.urlopen(urllib.request.Request(url + "/api/generate", body), timeout=20)
        assert "response" in json.loads(answering.readline())
    finally:
        status, seconds, log = served.stop()
    assert status == 0 and seconds < 4, log  # 2 seconds and a process's own end on a busy machine
    assert "no Vulkan device can be used" in log and "Traceback" not in log


def test_serve_logs_every_device(here, tmp_path):
    device = some_device()
    served = Served(tmp_path / "models")
    status, _, log = served.stop(signal.SIGINT)
    assert status == 0
    assert "CPU (OLLAMA_VULKAN is not set" in served.ready[1] and "vkbackend create" in served.ready[2]
    assert f"device {device.index}: {device.name}: {device.type.name.lower()}, {device.driver}" in log


def test_serve_ends_while_a_model_does_not(here, tmp_path, gguf):
    """A load that takes half a minute must not hold the process."""
    ok(here("create", "tiny", "--gguf", gguf))
    loading = tmp_path / "loading"
    program = (f"import pathlib, time, server.cli.serving as serving; begun = pathlib.Path({str(loading)!r})\n"
               "serving.load_engine = lambda *_: (begun.touch(), time.sleep(30))\n"
               "from server.cli.main import cli; cli(['serve'])")
    served = Served(tmp_path / "models", command=["-c", program])
    body = json.dumps({"model": "tiny", "prompt": "hello"}).encode()
    asking = threading.Thread(target=lambda: pytest.raises(OSError, urllib.request.urlopen, f"http://127.0.0.1:{served.port}/api/generate", body))
    asking.start()
    deadline = time.monotonic() + 20
    while not loading.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    status, seconds, log = served.stop()
    asking.join()
    assert loading.exists() and status == 0 and 1.5 < seconds < 4, log
    assert "leaving without it" in log and "Traceback" not in log


# --- devices, check, bench

def test_devices(here, monkeypatch):
    device = some_device()
    found = json.loads(ok(here("devices", "--json")))
    assert [entry["uuid"] for entry in found["devices"]] == [each.uuid for each in list_devices()]
    assert found["vulkan"] is False and not any(entry["used"] for entry in found["devices"])
    text = ok(here("devices"))
    assert device.name in text and "OLLAMA_VULKAN is not set" in text
    monkeypatch.setenv("OLLAMA_VULKAN", "1")
    found = json.loads(ok(here("devices", "--json")))
    used = [entry for entry in found["devices"] if entry["used"]]
    assert len(used) == 1 and used[0]["index"] == found["chosen"] and used[0]["reason"].startswith("chosen: ")
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "77")
    found = json.loads(ok(here("devices", "--json")))
    assert found["chosen"] is None and "77" in found["problem"] and "CPU, although" in found["runs_on"]


def test_devices_without_a_driver(tmp_path):
    for option in ([], ["--json"]):
        done = subprocess.run([sys.executable, "-m", "vkbackend", "devices", *option], cwd=ROOT, env=os.environ | NO_DRIVER, capture_output=True, text=True)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert json.loads(done.stdout)["devices"] == [] if option else done.stderr.startswith("Error: ")


def test_check_one_op(here):
    device = some_device()
    text = ok(here("check", "--only", "add", "--device", device.index))
    assert re.search(r"^ok +add +[1-9]\d* passed +0 failed +\d+ n/a", text, re.MULTILINE)
    document = json.loads(ok(here("check", "--only", "add", "--device", device.index, "--json")))[0]
    assert document["device"]["uuid"] == device.uuid and {op["name"] for op in document["ops"]} == {"add"}
    assert len(document["results"]) == document["ops"][0]["passed"] > 0
    assert "there is no Vulkan device 77" in here("check", "--device", 77).stderr


def test_check_names_the_kernel_that_differs(here, monkeypatch):
    from vkbackend import check as checks
    device = some_device()
    twin = checks.reference
    monkeypatch.setattr(checks, "reference", lambda *inputs, **attrs: twin(*inputs, **attrs) + 1)
    result = here("check", "--only", "add", "--device", device.index)
    assert result.exit_code == 1 and "FAIL  add" in result.stdout
    assert re.search(r"DIFFERS: add_base.* on add 'odd': [\d.e+]+ times what is allowed", result.stdout)


def test_bench_on_the_cpu(here, gguf):
    found = json.loads(ok(here("bench", gguf, "--cpu", "--prompt", 5, "--tokens", 3, "--json")))
    assert found["prefill_rate"] > 0 and found["decode_rate"] > 0 and found["bandwidth"] is None
    assert found["nanoseconds_per_weight"] == pytest.approx(1e9 / found["decode_rate"] / found["weights"])
    assert "decode 3" in ok(here("bench", gguf, "--cpu", "--prompt", 5, "--tokens", 3))


def test_bench_on_a_device(here, gguf):
    device = some_device()
    found = json.loads(ok(here("bench", gguf, "--device", device.index, "--prompt", 5, "--tokens", 3, "--json")))
    labels = {op["label"]: op for op in found["ops"]}
    # 8.5 bits per weight: q8_0 keeps a scale of 2 bytes for 32 weights; the rest of what matmul moves are activations.
    assert 1 < labels["matmul_q8_0"]["num_bytes"] / (found["weights"] * 8.5 / 8) < 1.2
    assert found["bytes_per_token"] == sum(op["num_bytes"] for op in found["ops"])
    assert labels["embed"]["num_bytes"] < 4096 and labels["attention"]["dispatches"] == 2
    assert found["bandwidth"]["copy"] > 1e6 and 0 < found["share_of_bandwidth"] < 10


def test_bench_beside_a_server(online, server, gguf):
    found = json.loads(ok(online("bench", gguf, "--cpu", "--prompt", 5, "--tokens", 3, "--json", "--url", server.url, "--remote-model", "m")))
    assert found["url"]["decoded_tokens"] <= 3 and found["url"]["prefill_rate"] > 0 and found["url"]["decode_rate"] > 0
    text = ok(online("bench", gguf, "--cpu", "--prompt", 5, "--tokens", 3, "--url", server.url, "--remote-model", "m"))
    assert re.search(r"^here / there +[\d.]+ +[\d.]+$", text, re.MULTILINE)


# --- what is printed

def test_columns():
    assert table.columns([["a", "bbb"], ["cc"]], ["X", "Y"], "  ") == ["  X     Y", "  a     bbb", "  cc"]


@pytest.mark.parametrize("size, vram, words", [(10, 0, "100% CPU"), (10, 10, "100% GPU"), (100, 75, "25%/75% CPU/GPU"), (10, 11, "Unknown"), (0, 0, "100% CPU")])
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
    assert joined.feed("Hello", [token("He", 0.0), token("llo", -1.0)]) == [("He", 1.0), ("llo", pytest.approx(0.3679, abs=1e-4))]
    # A character of two tokens comes with the second; it belongs to the first.
    assert joined.feed("", [token("�", -0.5, b"\xf0\x9f")]) == []
    assert joined.feed("😀!", [token("�", -2.0, b"\x98\x80"), token("!", 0.0)]) == [("😀", pytest.approx(0.6065, abs=1e-4)), ("!", 1.0)]
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


def test_control_characters_do_not_reach_a_terminal(capsys):
    printing = answer._Printer(answer.Printing())
    printing.is_terminal = True
    printing.text("a\tb\n\x1b[2Jc\x9b\r\x08d", None)
    assert capsys.readouterr().out == "a\tb\n\ufffd[2Jc\ufffd\ufffd\ufffdd"
    printing.is_terminal = False
    printing.text("\x1bd", None)
    assert capsys.readouterr().out == "\x1bd"


def test_timings():
    last = {"total_duration": 1_500_000_000, "load_duration": 2_000_000, "prompt_eval_count": 10, "prompt_eval_duration": 500_000_000,
            "eval_count": 3, "eval_duration": 1_000_000_000}
    assert answer.timings(last) == ["total duration:       1.5s", "load duration:        2ms", "prompt eval count:    10 token(s)",
                                    "prompt eval duration: 500ms", "prompt eval rate:     20.00 tokens/s", "eval count:           3 token(s)",
                                    "eval duration:        1s", "eval rate:            3.00 tokens/s"]


@pytest.mark.parametrize("path, name", [("a/SmolLM2-135M.Q4_1.gguf", "SmolLM2-135M.Q4_1"), ("my model (1).gguf", "my-model-1"), ("...gguf", "model")])
def test_name_of_file(path, name):
    assert run.name_of_file(Path(path)) == name


# --- conversation

class FakeClient:
    """Keeps what it was asked; answers every message with its number."""

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
    return conversation.Conversation(client, "m", {"system": "from the model", "license": "MIT"}, {}, answer.Printing()), client


def test_conversation_keeps_history_until_cleared(talk, capsys):
    chat, client = talk
    assert chat.handle("one") and chat.handle("two")
    assert [message["content"] for message in client.chats[1]["messages"]] == ["one", "answer 1", "two"]
    chat.handle("/clear")
    chat.handle("/set system Be brief.")
    chat.handle("/set nohistory")
    chat.handle("three")
    chat.handle("four")
    assert [message["content"] for message in client.chats[3]["messages"]] == ["Be brief.", "four"]
    assert "answer 4" in capsys.readouterr().out
    assert not chat.handle("/bye")


def test_conversation_settings(talk, capsys):
    chat, client = talk
    for line in ("/set parameter temperature 0.5", "/set parameter stop a b", "/set parameter top_k x", "/set parameter zzz 1", "/set format json",
                 "/set think", "/set verbose", "/nonsense", "/set nonsense", "/show license", "/show system"):
        assert chat.handle(line)
    printed = capsys.readouterr().out
    for words in ("Set parameter 'temperature' to '0.5'", "invalid int value [x]", "unknown parameter 'zzz'", "Unknown command '/nonsense'",
                  "Unknown command '/set nonsense'", "MIT", "from the model"):
        assert words in printed
    chat.handle("hello")
    assert client.chats[0]["options"] == {"temperature": 0.5, "stop": ["a", "b"]}
    assert client.chats[0]["format"] == "json" and client.chats[0]["think"] is True
    assert "eval rate:            2.00 tokens/s" in capsys.readouterr().err
    chat.handle("/save copy")
    assert client.calls[-1][1]["from"] == "m" and len(client.calls[-1][1]["messages"]) == 2
    chat.handle("/load other")
    assert chat.model == "other" and chat.messages == []


@pytest.mark.parametrize("lines, message", [
    (["hello"], "hello"), (['"""one', "two", 'three"""'], "one\ntwo\nthree"), (['"""same line"""'], "same line"),
    (['/set system """a', 'b"""'], "/set system a\nb")])
def test_messages_of_several_lines(lines, message):
    rest = iter(lines)
    assert conversation.read_message(lambda is_first: next(rest)) == message
    assert list(rest) == []
