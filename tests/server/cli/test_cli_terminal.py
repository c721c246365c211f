"""Output of the command line, byte by byte: streams that are closed, full or not UTF-8, escape sequences of models,
word wrapping.

Commands run as processes, some on a pseudo-terminal; a server with canned answers stands in for models.
"""

import shutil
import subprocess
import sys

import pytest
from places import ROOT
from terminal_world import ESCAPES, WORDS, on_terminal
from vulkan_drivers import missing

from vkbackend.server.cli.terminal.wordwrap import WordWrap

CLEANED = "a\ufffd]0;T\ufffdb\ufffdc 數據🩷 ©"


def command(environment, *arguments, shell="", **more):
    """Run a command in bash. shell: the text after the command."""
    line = [sys.executable, "-m", "vkbackend", *arguments]
    if shell:
        line = ["bash", "-c", f'"$@" {shell}', "bash", *line]
    return subprocess.run(
        line,
        cwd=ROOT,
        env=environment | more,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


# --- streams


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_as_good_as_dev_null(environment, closed):
    done = command(environment, "run", "m", "hi", "--hidethinking", shell=closed)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == (ESCAPES + "\n\n" if closed in ("<&-", "2>&-") else "")


def iso_8859_1(folder) -> dict[str, str]:
    """Environment of a newly created ISO-8859-1 locale."""
    if not shutil.which("localedef"):
        missing("localedef is not installed")
    made = subprocess.run(
        ["localedef", "--no-archive", "-c", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")],
        capture_output=True,
    )
    if not (folder / "en_US.ISO-8859-1" / "LC_CTYPE").exists():
        missing(f"no locale could be made: {made.stderr.decode()}")
    return {"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1"}


@pytest.mark.parametrize("world", ["iso-8859-1", "C", "PYTHONIOENCODING"])
def test_output_is_utf_8_whatever_the_locale_says(environment, tmp_path, world):
    more = {
        "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        "PYTHONIOENCODING": {"PYTHONIOENCODING": "ascii"},
    }.get(world)
    more = more or iso_8859_1(tmp_path)
    for arguments, words in (
        (["show", "m", "--license"], ESCAPES),
        (["run", "m", "hi"], ESCAPES),
        (["list"], f"m{ESCAPES}:latest"),
    ):
        done = command(environment, *arguments, **more)
        assert (done.returncode, done.stderr) == (0, b"") and words in done.stdout.decode(), arguments
    done = command(environment, "run", "error", "hi", **more)
    assert (done.returncode, done.stderr.decode()) == (1, f"Error: no {ESCAPES}\n")
    (tmp_path / "數據").write_text("FROM x\nNONSENSE\n")
    done = command(environment, "create", "x", "-f", str(tmp_path / "數據"), **more)
    assert done.returncode == 1 and b"command must be one of" in done.stderr


def test_bytes_that_are_not_utf8_round_trip(environment, tmp_path):
    (tmp_path / "prompt").write_bytes(b"a\xff\xc3b")
    done = command(environment, "run", "m", shell=f"< {tmp_path}/prompt")
    assert (done.returncode, done.stdout.decode()) == (0, ESCAPES + "\n\n")
    done = command(environment, "create", "x", "-f", b"/nowhere/\xff\xc3", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr.startswith(b"Error: /nowhere/\xff\xc3: no such file")) == (1, True)


@pytest.mark.parametrize("arguments", [["show", "m"], ["run", "m", "hi"], ["list"], ["--help"]])
@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_a_full_disk_is_an_error_of_a_line(environment, arguments, unbuffered):
    done = command(environment, *arguments, shell="> /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1) and b"no space left on device" in done.stderr


def test_a_reader_that_goes_ends_the_command_quietly(environment):
    for arguments in (["show", "m"], ["run", "m", "hi"], ["list"]):
        done = command(environment, *arguments, shell="| true; exit ${PIPESTATUS[0]}")
        assert (done.returncode, done.stderr) == (1, b""), arguments


# --- errors in a line


def test_errors_are_sentences(environment, tmp_path):
    (tmp_path / "user").write_text("FROM ~nosuchuser/x.gguf\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for arguments, more, words in (
        (["create", "x", "-f", str(tmp_path / "user")], {}, "failed to find user 'nosuchuser'"),
        (["create", "x", "--gguf", "~nosuchuser/x.gguf"], {}, "failed to find user 'nosuchuser'"),
        (["run", "~nosuchuser/x.gguf", "hi"], {}, "failed to find user 'nosuchuser'"),
        (["create", "x", "-f", str(tmp_path)], {}, f"{tmp_path}: is a folder"),
        (["create", "x", "-f", str(tmp_path / "binary")], {}, "(line 1): command must be one of"),
        (["create", "x", "-f", str(tmp_path / "loop")], {}, "no such file"),
        (["run", "broken", "hi"], {}, "incomplete answer"),
        (["list"], {"OLLAMA_HOST": "[["}, "Invalid IPv6 URL"),
        (["list"], {"OLLAMA_HOST": "a..b:1"}, "label empty or too long"),
        (["list"], {"OLLAMA_HOST": "x" * 300}, "label too long"),
    ):
        done = command(environment, *arguments, **more)
        assert done.returncode == 1 and words in done.stderr.decode(), (arguments, done.stderr)
        assert b"Traceback" not in done.stderr and done.stderr.splitlines()[-1].startswith(b"Error: "), (
            arguments,
            done.stderr,
        )


def test_a_home_that_is_no_folder_costs_no_more_than_the_caches(environment, tmp_path):
    from tiny_gguf import write_tiny_gguf

    gguf = write_tiny_gguf(tmp_path / "tiny.gguf")
    more = {
        "HOME": "/dev/null",
        "VKBACKEND_CACHE": "",
        "OLLAMA_HOST": "127.0.0.1:1",
        "OLLAMA_MODELS": str(tmp_path / "models"),
    }
    done = command(environment, "create", "tiny", "--gguf", str(gguf), **more)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert command(environment, "list", **more).stdout.startswith(b"NAME")


def test_an_unforeseen_error_is_a_sentence_too(environment, tmp_path):
    program = (
        "from vkbackend.server.cli import process; import sys; process.open_streams(); "
        "sys.exit(process.guarded(lambda: [][1]))"
    )
    for debug in ("", "1"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=environment | {"OLLAMA_DEBUG": debug},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1 and ("Traceback" in done.stderr) == (debug == "1")
        assert (
            done.stderr.splitlines()[-1]
            == "Error: unexpected IndexError: list index out of range (set OLLAMA_DEBUG=1 for a traceback)"
        )


# --- escape sequences


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "m"],
        ["show", "m", "-v"],
        ["list"],
        ["ps"],
        ["show", "error"],
        ["run", "error", "hi"],
        *(["show", "m", f"--{part}"] for part in ("system", "license", "template", "parameters", "modelfile")),
    ],
)
def test_escape_sequences_of_models_do_not_reach_a_terminal(environment, arguments):
    shown = on_terminal(environment, *arguments)
    assert CLEANED in shown and not set(shown) & set("\x1b\x07\x9b"), shown
    done = command(environment, *arguments)
    assert ESCAPES in (done.stdout + done.stderr).decode()


# --- wrapping


def screen(text: str, columns: int) -> list[str]:
    """Return what a terminal shows of a text with the cursor movements of `run`."""
    lines, column = [""], 0
    while text:
        if text.startswith("\x1b["):
            end = next(index for index in range(2, len(text)) if text[index].isalpha())
            count, action = text[2:end], text[end]
            column = column - int(count) if action == "D" else column
            lines[-1] = lines[-1][:column] if action == "K" else lines[-1]
            text = text[end + 1 :]
            continue
        if text[0] == "\n" or column == columns:
            lines.append("")
            column = 0
        if text[0] != "\n":
            lines[-1] = lines[-1][:column] + text[0] + lines[-1][column + 1 :]
            column += 1
        text = text[1:]
    return lines


def wrapped(text: str, columns: int, size: int = 3) -> str:
    wrap = WordWrap()
    return "".join(
        part for start in range(0, len(text), size) for part, _ in wrap.feed(text[start : start + size], None, columns)
    )


def test_words_move_to_the_next_line_as_a_whole():
    lines = screen(wrapped(WORDS + "\n\nend", 30), 30)
    assert " ".join(line.strip() for line in lines[:-2]) == WORDS and all(len(line) <= 25 for line in lines)
    assert lines[:2] == ["alpha beta gamma delta ", "epsilon zeta eta theta "] and lines[-2:] == ["", "end"]


def test_a_word_as_long_as_the_line_is_left_to_the_terminal():
    word = "x" * 70
    assert "".join(screen(wrapped(f"see {word} there", 30), 30)).split() == ["see", word, "there"]
    assert wrapped(word, 30) == word and wrapped(WORDS, 9) == WORDS == wrapped(WORDS, 0)


def test_wide_characters_take_two_columns_and_lines_end_between_them():
    text = wrapped("數據" * 10, 20)
    assert text.replace("\x1b[K", "").split("\n") == ["數據數據數據數據", "數據數據數據數據", "數據數據"]


def test_a_word_that_moves_keeps_its_colours():
    wrap = WordWrap()
    wrap.feed("one two thr", 0.5, 16)
    assert wrap.feed("ee", 0.9, 16) == [("\x1b[3D\x1b[K\n", None), ("thr", 0.5), ("ee", 0.9)]


@pytest.mark.parametrize("options", [[], ["--nowordwrap"], ["--no-color"]])
def test_run_wraps_on_a_terminal_only(environment, options):
    shown = on_terminal(environment, "run", "words", "hi", *options, columns=30)
    lines = screen(shown, 30)
    assert ("alpha beta gamma delta epsilon" in shown) == (options == ["--nowordwrap"])
    if options != ["--nowordwrap"]:
        assert [line.strip() for line in lines][:2] == ["alpha beta gamma delta", "epsilon zeta eta theta"], shown
    assert WORDS in command(environment, "run", "words", "hi", *options).stdout.decode()
