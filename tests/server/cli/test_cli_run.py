"""`run`, `doctor`, `help` and `completion` as users see them: a missing model is pulled, tokens are shown, Ctrl-C stops
an answer.
"""

import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from cli_world import NO_DRIVER, ok, some_device
from docker_registry import DockerRegistry
from gguf import GGUFReader
from places import ROOT
from pseudo_terminals import fork
from tiny_gguf import write_tiny_gguf

from vkbackend import settings
from vkbackend.server.cli import doctor
from vkbackend.server.cli.main import COMMANDS


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as started:
        yield started


def test_a_model_that_is_missing_is_pulled(registry, here, gguf, tmp_path, monkeypatch):
    ok(here("create", "tiny", "--gguf", gguf))
    ok(here("cp", "tiny", f"{registry.host}/library/tiny"))
    assert "success" in here("push", f"{registry.host}/library/tiny", "--insecure").stderr
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "other"))
    monkeypatch.setenv("VKBACKEND_REGISTRY_URLS", f"registry.ollama.ai=http://{registry.host}")
    result = here("run", "tiny", "hello", "--insecure")
    assert ok(result).strip() and "pulling manifest" in result.stderr and "success" in result.stderr, result.output
    assert "tiny:latest" in ok(here("list"))
    assert "pulling" not in here("run", "tiny", "hello").stderr


def test_tokens_and_what_else_was_likely(here, gguf):
    text = ok(here("run", gguf, "hello", "--logprobs", "2"))
    header = text.splitlines().index(next(line for line in text.splitlines() if line.startswith("TOKEN ")))
    rows = text.splitlines()[header + 1 : -1]
    assert len(rows) > 1 and all(re.search(r'^".*" +\d+\.\d% +".*" \d+\.\d%  ".*" \d+\.\d%$', row) for row in rows), (
        text
    )
    assert "TOKEN" in ok(here("run", gguf, "hello", "--logprobs")) and "TOKEN" not in ok(here("run", gguf, "hello"))
    assert here("run", gguf, "hello", "--logprobs", "21").exit_code == 2


def test_piped_text_comes_before_the_prompt(here, gguf, monkeypatch):
    from vkbackend.server.cli.terminal import answer

    asked = []
    monkeypatch.setattr(
        "vkbackend.server.cli.run.print_answer",
        lambda client, path, body, printing: asked.append(body["prompt"]) or answer.Answer(),
    )
    for words, piped in ((["what", "is", "this?"], "some text"), ([], "only\nthis\n"), (["just", "words"], "")):
        ok(here("run", gguf, *words, input=piped))
    assert asked == ["some text what is this?", "only\nthis\n", "just words"]


def test_help_of_everything(here):
    assert ok(here("help")) == ok(here("--help"))
    for command in COMMANDS:
        assert re.match(rf"Usage: \S* ?{command} ", ok(here("help", command))), command
    assert 'unknown command "nonsense"' in here("help", "nonsense").stderr


@pytest.mark.parametrize(
    "words, offered",
    [(["pu"], {"pull", "push"}), (["run", "--log"], {"--logprobs"}), (["show", "ti"], {"tiny"}), (["rm", "x"], set())],
)
def test_completion(here, gguf, words, offered):
    """Ask the command for completions, as the script of `completion bash` does."""
    ok(here("create", "tiny", "--gguf", gguf))
    environment = os.environ | {
        "_VKBACKEND_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["vkbackend", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "vkbackend"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert {line.split(",")[1] for line in done.stdout.splitlines() if line} == offered, done.stderr


@pytest.mark.parametrize(
    "shell, words",
    [
        ("bash", "complete -o nosort -F _vkbackend_completion vkbackend"),
        ("zsh", "#compdef vkbackend"),
        ("fish", "complete --no-files --command vkbackend"),
    ],
)
def test_completion_scripts(here, shell, words):
    script = ok(here("completion", shell))
    assert words in script and "_VKBACKEND_COMPLETE" in script
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


# --- on a terminal


class Terminal:
    """A command on a pseudo-terminal: `type` sends keys, `wait_for` reads up to a pattern."""

    def __init__(self, arguments, environment):
        self.pid, self.file = fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execvpe(sys.executable, [sys.executable, "-m", "vkbackend", *arguments], environment)
        self.text = ""

    def type(self, text):
        os.write(self.file, text.encode())

    def wait_for(self, pattern, seconds=30):
        """Return the output up to and including the pattern, and consume it."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < deadline, f"{pattern} did not come: {self.text[-2000:]!r}"
            if select.select([self.file], [], [], 0.2)[0]:
                try:
                    self.text += re.sub(
                        r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(self.file, 65536).decode("utf-8", "replace")
                    )
                except OSError:
                    break
        before, self.text = self.text[: found.end()], self.text[found.end() :]
        return before

    def end(self) -> int:
        """Return the exit status within 30 seconds."""
        for _ in range(300):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            try:
                while select.select([self.file], [], [], 0)[0] and os.read(self.file, 65536):
                    pass  # read on: a full terminal blocks the writer
            except OSError:
                pass
            time.sleep(0.1)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError("the command did not end")


def test_a_conversation_on_a_terminal(here, tmp_path):
    """Ctrl-C stops an endless answer, and typed lines are saved."""
    gguf = write_tiny_gguf(tmp_path / "endless.gguf", biases=("output",))
    bias = next(tensor for tensor in GGUFReader(gguf, "r+").tensors if tensor.name == "output.bias")
    bias.data[:3] = -1e4  # the control tokens, two of which end an answer
    (tmp_path / "Modelfile").write_text(
        f"FROM {gguf}\nPARAMETER num_predict -1\nPARAMETER num_ctx 512\nPARAMETER repeat_penalty 1.5\n"
    )
    ok(here("create", "endless", "-f", tmp_path / "Modelfile"))
    terminal = Terminal(["run", "endless", "--no-color"], os.environ | {"TERM": "xterm"})
    try:
        terminal.wait_for(r">>> ")
        terminal.type("hello\r")
        terminal.wait_for(r"hello\s+[\s\S]{100,}")
        terminal.type("\x03")
        assert "Use Ctrl + d" not in terminal.wait_for(r">>> ")  # which is what it says at the prompt
        terminal.type("/show system\r")
        terminal.wait_for("No system message was specified")
        terminal.type("/bye\r")
        assert terminal.end() == 0
    finally:
        os.close(terminal.file)
    lines = (settings.cache_folder() / "history").read_text()
    assert "+hello" in lines and "+/show system" in lines


# --- doctor


def test_doctor_writes_what_a_bug_report_needs(here, gguf, tmp_path):
    device, file = some_device(), tmp_path / "report.txt"
    result = here("doctor", gguf, "-o", file)
    text = file.read_text()
    assert result.exit_code == 0, result.output
    assert text in result.stdout and device.name in text and "Python 3." in text
    assert (
        re.search(r"\d+ passed, 0 failed", text)
        and re.search(r"\d+ of 16 tokens are equal", text)
        and re.search(r"is a software driver: tiny runs at .* is faster|times as fast as", text)
    )


def test_doctor_finds_what_is_wrong(here, gguf, tmp_path, monkeypatch):
    """If tokens differ from the CPU's, the report says so and the exit status is 1."""
    some_device()
    generate = doctor.generate

    def other(file, device):
        made = generate(file, device)
        return made if device is None else doctor.Generated([0] * 16, [-9.0] * 16, made.rate, "no")

    monkeypatch.setattr(doctor, "generate", other)
    result = here("doctor", gguf, "-o", tmp_path / "report.txt")
    assert result.exit_code == 1 and "DIFFERENT: 0 of 16" in result.stdout


def test_doctor_without_a_device_or_a_model(tmp_path):
    environment = os.environ | NO_DRIVER | {"OLLAMA_MODELS": str(tmp_path / "models")}
    done = subprocess.run(
        [sys.executable, "-m", "vkbackend", "doctor", "-o", tmp_path / "report.txt"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Models run on: CPU" in done.stdout and "skipped: no model" in (tmp_path / "report.txt").read_text()
