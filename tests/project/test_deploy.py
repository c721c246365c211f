"""The files of deploy/: what they name is there, and systemd takes the unit."""

import re
import shutil
import subprocess
import sys

from places import ROOT

from vkbackend import settings
from vkbackend.server.cli.main import COMMANDS

DEPLOY = ROOT / "deploy"
UNIT, CONTAINER = (DEPLOY / "vkbackend.service").read_text(), (DEPLOY / "Containerfile").read_text()


def test_settings_are_ours_and_can_be_used(monkeypatch, caplog):
    names = {row.name for row in settings.ROWS}
    named = re.findall(r"^Environment=(\w+)=(.*)$", UNIT, re.MULTILINE)
    named += [
        tuple(pair.split("=", 1))
        for line in re.findall(r"^ENV (.*)$", CONTAINER, re.MULTILINE)
        for pair in line.split()
    ]
    assert len(named) >= 10
    for name, text in named:
        if name != "HOME":
            assert name in names, name
            monkeypatch.setenv(name, text)
            settings.get(name)
    assert not caplog.records
    stop = int(re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[1])
    monkeypatch.delenv("VKBACKEND_DRAIN_SECONDS", raising=False)
    assert stop > settings.get("VKBACKEND_DRAIN_SECONDS") + 5


def test_the_container_copies_all_that_building_needs():
    copied = [name for line in re.findall(r"^COPY (.*)$", CONTAINER, re.MULTILINE) for name in line.split()[:-1]]
    assert {
        "pyproject.toml",
        "requirements.lock",
        "CMakeLists.txt",
        "vkbackend",
        "server",
        "shaders",
        "scripts",
    } <= set(copied)
    assert all((DEPLOY.parent / name).exists() for name in copied)
    assert re.search(r'^CMD \["(\w+)"\]', CONTAINER, re.MULTILINE)[1] in COMMANDS


def test_systemd_takes_the_unit(tmp_path):
    """With a program that is there in place of the one in /opt."""
    unit = tmp_path / "vkbackend.service"
    unit.write_text(UNIT.replace("/opt/vkbackend/.venv/bin/vkbackend", sys.executable))
    assert "serve" in re.search(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)[1]
    if shutil.which("systemd-analyze"):  # of Debian's systemd, which a container need not have
        done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
        complaints = [line for line in done.stderr.splitlines() if "vkbackend.service" in line]
        assert done.returncode == 0 and not complaints, done.stderr
