"""Imports point down the layers of pyproject.toml (docs/architecture.md), and the server has one name."""

import ast
import importlib.util
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

MAY_IMPORT_THE_SERVER = "vkbackend/__main__.py"


def lint(config: Path) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", config]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def lint_with(tmp_path: Path, old: str, new: str) -> subprocess.CompletedProcess:
    """The linter's run with its configuration changed."""
    text = (ROOT / "pyproject.toml").read_text()
    changed = text.replace(old, new)
    assert changed != text
    (tmp_path / "pyproject.toml").write_text(changed)
    return lint(tmp_path / "pyproject.toml")


def installed_package(file: str) -> str:
    """The package that a file's relative imports start from: `server/go/text.py` is in `vkbackend.server.go`."""
    parts = Path(file).parent.parts
    return ".".join(parts if parts[0] == "vkbackend" else ("vkbackend", *parts))


def imports(text: str, package: str) -> Iterator[tuple[str, bool]]:
    """(absolute name, whether it was written as a relative one) of every import and every `import_module` of a text."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, False
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                yield f"{base}.{alias.name}", node.level > 0
        elif isinstance(node, ast.Call) and re.search(r"\b(import_module|__import__)$", ast.unparse(node.func)):
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield importlib.util.resolve_name(name.value, package), name.value.startswith(".")


def misdirected(file: str, text: str) -> list[str]:
    """Imports of the server that its rules forbid: absolute ones in `server/`, any in `vkbackend/`."""
    if file == MAY_IMPORT_THE_SERVER:
        return []
    package = installed_package(file)
    is_server = package.startswith("vkbackend.server")
    return [
        name
        for name, is_relative in imports(text, package)
        if re.match(r"(vkbackend\.)?server(\.|$)", name) and not (is_server and is_relative)
    ]


def test_imports_point_down():
    done = lint(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout


def test_the_server_is_imported_in_main_only_and_by_itself_with_relative_imports():
    files = [path for folder in ("vkbackend", "server") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 200
    found = {}
    for path in files:
        file = path.relative_to(ROOT).as_posix()
        found[file] = misdirected(file, path.read_text())
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "file, text",
    [
        ("server/go/text.py", "from vkbackend.server.routes import table"),
        ("server/go/text.py", "from vkbackend import server"),
        ("server/go/text.py", "from server.routes import table"),
        ("vkbackend/session.py", "from vkbackend.server.http import metrics"),
        ("vkbackend/session.py", "from server.http import metrics"),
        ("vkbackend/session.py", "import server"),
        ("vkbackend/session.py", "def f():\n    import vkbackend.server.http.metrics"),
        ("vkbackend/session.py", "from . import server"),
        ("vkbackend/bench/model.py", "from ..server.http import metrics"),
        ("vkbackend/session.py", "import importlib\nimportlib.import_module('.server.http', __package__)"),
        ("vkbackend/session.py", "__import__('server')"),
    ],
)
def test_each_forbidden_import_of_the_server_is_found(file, text):
    assert misdirected(file, text)


@pytest.mark.parametrize(
    "file, text",
    [
        ("server/go/text.py", "from ..routes import table"),
        ("server/go/text.py", "from vkbackend.errors import GGUFError"),
        ("vkbackend/session.py", "import http.server, servers"),
        ("vkbackend/__main__.py", "from vkbackend.server.cli import process"),
    ],
)
def test_other_imports_are_allowed(file, text):
    assert misdirected(file, text) == []


def test_the_layers_of_vkbackend_can_be_broken(tmp_path):
    done = lint_with(tmp_path, '"ops",\n    "device",', '"device",\n    "ops",')
    assert done.returncode != 0 and "vkbackend.ops.rope -> vkbackend.device.dispatch" in done.stdout


def test_the_layers_of_the_server_can_be_broken(tmp_path):
    done = lint_with(tmp_path, '"wire",\n    "go",', '"go",\n    "wire",')
    assert done.returncode != 0 and "vkbackend.server.wire.native -> vkbackend.server.go" in done.stdout


def test_the_linter_sees_imports_of_the_server_by_vkbackend(tmp_path):
    """With the server above `__main__`, the imports that only `__main__` may have break the contract."""
    done = lint_with(tmp_path, '"__main__",\n    "server",', '"server",\n    "__main__",')
    assert done.returncode != 0 and "vkbackend.__main__ -> vkbackend.server.cli.main" in done.stdout


@pytest.mark.parametrize("line", ['    "progress",\n', '    "garbage",\n'])
def test_a_folder_or_file_in_no_list_is_an_error(tmp_path, line):
    done = lint_with(tmp_path, line, "")
    name = line.strip().strip('",')
    assert done.returncode != 0 and re.search(rf"not listed as layers:\s+- vkbackend\.(server\.)?{name}\n", done.stdout)


def test_aiohttp_is_seen_below_http(tmp_path):
    """Without their exceptions, the clients of a registry break the contract."""
    done = lint_with(tmp_path, '    "vkbackend.server.library.registry.client -> aiohttp",\n', "")
    assert done.returncode != 0 and "vkbackend.server.library.registry.client -> aiohttp" in done.stdout


def test_the_server_is_imported_by_one_name(tmp_path):
    """A package called `server` in site-packages would collide with anybody's."""
    program = (
        "import importlib.util, vkbackend.server.cli.main; "
        "assert importlib.util.find_spec('server') is None, 'there is a bare `server`'"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def wheel_files(tmp_path: Path, settings: dict[str, str]) -> list[str]:
    """The files of the wheel. Without native code, which CMakeLists.txt installs into folders that it names itself."""
    program = "import sys; from scikit_build_core.build import build_wheel; build_wheel(sys.argv[1], %r)"
    command = [sys.executable, "-c", program % {"wheel.cmake": "false", **settings}, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        return file.namelist()


def test_the_wheel_holds_one_package(tmp_path):
    names = wheel_files(tmp_path, {})
    folders = {re.sub(r"^vkbackend-.*\.dist-info$", "metadata", name.split("/")[0]) for name in names}
    assert folders == {"vkbackend", "metadata"}
    assert {"vkbackend/__init__.py", "vkbackend/session.py", "vkbackend/server/cli/main.py"} <= set(names)
    native = re.findall(r"^install\(.* DESTINATION (\S+?)\)$", (ROOT / "CMakeLists.txt").read_text(), re.M)
    assert native == ["vkbackend"] * 3


def test_a_bare_server_in_the_wheel_is_seen(tmp_path):
    names = wheel_files(tmp_path, {"wheel.packages": "server"})
    assert "server/__init__.py" in names
