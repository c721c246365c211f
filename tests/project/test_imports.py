"""Imports point down the layers of pyproject.toml (docs/architecture.md), and the package has one name."""

import subprocess
import sys
from pathlib import Path

from places import ROOT


def lint(config: Path) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", config]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_imports_point_down():
    done = lint(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout


def test_the_rule_can_be_broken(tmp_path):
    text = (ROOT / "pyproject.toml").read_text()
    turned = text.replace('"vkbackend.ops",\n    "vkbackend.device",', '"vkbackend.device",\n    "vkbackend.ops",')
    assert turned != text
    (tmp_path / "pyproject.toml").write_text(turned)
    done = lint(tmp_path / "pyproject.toml")
    assert done.returncode != 0 and "vkbackend.ops.rope -> vkbackend.device.dispatch" in done.stdout


def test_aiohttp_is_seen_below_http(tmp_path):
    """Without their exceptions, the clients of a registry break the contract."""
    text = (ROOT / "pyproject.toml").read_text()
    strict = text.replace('    "server.library.registry.client -> aiohttp",\n', "")
    assert strict != text
    (tmp_path / "pyproject.toml").write_text(strict)
    done = lint(tmp_path / "pyproject.toml")
    assert done.returncode != 0 and "server.library.registry.client -> aiohttp" in done.stdout


def test_the_server_is_imported_by_one_name(tmp_path):
    """A package called `server` in site-packages would collide with anybody's."""
    program = (
        "import importlib.util, vkbackend.server.cli.main; "
        "assert importlib.util.find_spec('server') is None, 'there is a bare `server`'"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
