"""Which path is faster where there is only a software Vulkan driver: `serve`, `run`, `doctor` and run.sh say it."""

import asyncio
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from cli_world import ok, some_device
from places import ROOT

from vkbackend.device.device_info import DeviceType
from vkbackend.device.selection import Survey, survey
from vkbackend.server.cli import doctor, path_rates, serve
from vkbackend.server.library.store import Store

DRIVER_IS_FASTER = "the driver is faster"
CPU_IS_FASTER = "the CPU path is faster"


@pytest.fixture
def software(here):
    return replace(some_device(), name="llvmpipe", type=DeviceType.CPU)


def plant(device, on_device: float, on_cpu: float) -> None:
    path_rates.remember(path_rates.PathRates(device.name, device.key, "tiny", on_device, on_cpu))


@pytest.mark.parametrize(
    "switched_on, on_device, on_cpu, said",
    [
        ("1", 2.1, 6.5, "2.1 tokens/s on it and 6.5 tokens/s on the CPU path; the CPU path is faster (set OLLAMA_VULK"),
        ("1", 6.5, 2.1, "6.5 tokens/s on it and 2.1 tokens/s on the CPU path; the driver is faster (in use)"),
        ("0", 6.5, 2.1, "the driver is faster (set OLLAMA_VULKAN=1 to use it)"),
        ("0", 2.1, 6.5, ""),
    ],
)
def test_the_log_names_the_faster_path(software, monkeypatch, caplog, switched_on, on_device, on_cpu, said):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("OLLAMA_VULKAN", switched_on)
    found = survey([software]) if switched_on == "1" else Survey()
    serve.log_devices(found)
    assert "tokens/s" not in caplog.text
    plant(software, on_device, on_cpu)
    serve.log_devices(found)
    assert ("llvmpipe is a software driver: tiny runs at " in caplog.text) == bool(said) and said in caplog.text


def test_nothing_is_said_of_a_gpu_or_another_driver(software, monkeypatch):
    monkeypatch.setenv("OLLAMA_VULKAN", "1")
    plant(software, 2.1, 6.5)
    assert path_rates.advice(survey([software]))
    for device in (replace(software, type=DeviceType.INTEGRATED), replace(software, driver_version="new")):
        assert not path_rates.advice(survey([device]))
    monkeypatch.setenv("VKBACKEND_CPU", "exact")  # other code computes on the CPU
    assert not path_rates.advice(survey([software]))


@pytest.mark.parametrize("on_device, on_cpu, said", [(2.1, 6.5, CPU_IS_FASTER), (6.5, 2.1, DRIVER_IS_FASTER)])
def test_doctor_measures_the_speed_once(software, here, gguf, monkeypatch, on_device, on_cpu, said):
    measured = []

    def generate(file, device):
        measured.append(device)
        return SimpleNamespace(rate=on_cpu if device is None else on_device)

    monkeypatch.setattr(doctor, "survey", lambda: survey([software]))
    monkeypatch.setattr(doctor, "open_device", lambda index: closed(SimpleNamespace(info=software)))
    monkeypatch.setattr(doctor, "generate", generate)
    monkeypatch.setenv("OLLAMA_VULKAN", "1")
    monkeypatch.setattr(path_rates, "is_idle", lambda: False)
    text = ok(here("doctor", "--speed", gguf))
    assert said in text and "may be wrong" in text and len(measured) == 2
    monkeypatch.setattr(path_rates, "is_idle", lambda: True)
    text = ok(here("doctor", "--speed", gguf))
    assert said in text and "may be wrong" not in text and len(text.splitlines()) == 1 and len(measured) == 4
    assert ok(here("doctor", "--speed", gguf)) == text and len(measured) == 4
    monkeypatch.setattr(doctor, "survey", lambda: survey([replace(software, type=DeviceType.DISCRETE)]))
    assert ok(here("doctor", "--speed", gguf)) == "" and len(measured) == 4


def closed(device):
    device.close = lambda: None
    return device


def test_a_server_measures_in_the_background(software, here, gguf, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("OLLAMA_VULKAN", "1")
    monkeypatch.setattr(path_rates, "WAIT_SECONDS", 0)
    monkeypatch.setattr(path_rates, "is_idle", lambda: True)
    commands = []
    start = asyncio.create_subprocess_exec

    async def started(*command, **options):
        commands.append(command)
        plant(software, 2.1, 6.5)
        return await start(sys.executable, "-c", "", **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", started)
    ok(here("create", "tiny", "--gguf", gguf))

    async def served():
        with path_rates.measured_later(survey([software]), Store(tmp_path / "models")):
            while "software driver" not in caplog.text:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(served(), 20))
    assert CPU_IS_FASTER in caplog.text and [command[-3:] for command in commands] == [
        ("doctor", "--speed", "tiny:latest")
    ]
    asyncio.run(asyncio.wait_for(served(), 20))
    assert len(commands) == 1, "it was measured before"


def test_a_measurement_ends_with_its_server(software, here, gguf, tmp_path, monkeypatch):
    monkeypatch.setenv("OLLAMA_VULKAN", "1")
    monkeypatch.setattr(path_rates, "WAIT_SECONDS", 0)
    monkeypatch.setattr(path_rates, "is_idle", lambda: True)
    start = asyncio.create_subprocess_exec
    children = []

    async def started(*command, **options):
        children.append(await start(sys.executable, "-c", "import time; time.sleep(60)", **options))
        return children[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", started)
    ok(here("create", "tiny", "--gguf", gguf))

    async def served():
        with path_rates.measured_later(survey([software]), Store(tmp_path / "models")):
            while not children:
                await asyncio.sleep(0.01)
        await children[0].wait()

    asyncio.run(asyncio.wait_for(served(), 20))


def test_run_sh_says_it_once(tmp_path):
    for name, text in {
        "scripts/setup.sh": "",
        ".venv/bin/vkbackend": 'echo "$@" >>"$(dirname "$0")/calls"',
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
    shutil.copy(ROOT / "scripts" / "run.sh", tmp_path / "scripts")
    for _ in range(2):
        environment = os.environ | {"VKBACKEND_CACHE": str(tmp_path / "cache")}
        subprocess.run(["bash", str(tmp_path / "scripts" / "run.sh"), "Why?"], env=environment, check=True)
    calls = (tmp_path / ".venv" / "bin" / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["create", "doctor", "run", "create", "run"]
    assert calls[1] == "doctor --speed smollm2"
