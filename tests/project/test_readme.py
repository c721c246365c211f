"""What the README says runs: its Python blocks, in order, in one process; the tests that its table names exist; its
commands and settings, too.
"""

import re
import subprocess
import sys

from places import ROOT, TESTS
from starter_models import model_path

from vkbackend import settings
from vkbackend.server.cli.main import COMMANDS

README = ROOT / "README.md"


def test_python_blocks_run(device, tmp_path):
    model_path("smollm2")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    program = tmp_path / "readme.py"
    program.write_text("\n".join(blocks))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "layer 3:" in done.stdout


def rows_of(title: str) -> list[list[str]]:
    """The cells of the first table below a title."""
    section = README.read_text().split(f"\n## {title}", 1)[1].split("\n## ", 1)[0]
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    return rows[2:]


def test_the_table_of_what_works_names_tests_that_exist():
    """A row without one, or with one that is gone, says more than is known."""
    rows = rows_of("What works, compared with Ollama 0.12.11")
    assert len(rows) > 25
    for what, _, shown_by in rows:
        named = re.findall(r"`([^`]*)`", shown_by)
        assert named, what
        for name in named:
            file, _, function = name.partition("::")
            text = next(TESTS.rglob(file)).read_text()
            assert re.search(rf"^def {function or 'test_'}", text, re.MULTILINE), f"{what}: {name}"
            assert not function or re.search(rf"^def {function}\(", text, re.MULTILINE), f"{what}: {name}"


def test_commands_and_settings_are_there():
    text = README.read_text()
    table = " ".join(cell for row in rows_of("Using it") for cell in row[:1])
    told = set(re.findall(r"\b[a-z]+\b", " ".join(re.findall(r"`([^`]*)`", table))))
    assert set(COMMANDS) <= told, set(COMMANDS) - told
    names = {row.name for row in settings.ROWS}
    assert {name for name in re.findall(r"\b(?:OLLAMA|VKBACKEND|GGML_VK)_[A-Z_]+\b", text)} <= names
