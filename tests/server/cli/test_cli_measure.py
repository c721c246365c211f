"""`devices`, `check` and `bench`: output and exit statuses on the devices of this machine."""

import json
import os
import re
import subprocess
import sys

import pytest
from cli_world import NO_DRIVER, ok, some_device
from places import ROOT
from vulkan_drivers import missing

from vkbackend.bench import host
from vkbackend.device.discover import list_devices
from vkbackend.errors import NoDevice


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
    assert len(used) == 1 and used[0]["index"] == found["chosen"] and used[0]["reason"].startswith("preferred (")
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "77")
    found = json.loads(ok(here("devices", "--json")))
    assert found["chosen"] is None and "77" in found["problem"] and "CPU, although" in found["runs_on"]


def test_devices_without_a_driver(tmp_path):
    for option in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "vkbackend", "devices", *option],
            cwd=ROOT,
            env=os.environ | NO_DRIVER,
            capture_output=True,
            text=True,
        )
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
    assert re.search(r"DIFFERS: add_base.* on add 'odd': [\d.e+]+ times the tolerance", result.stdout)


def test_bench_on_the_cpu(here, gguf):
    arguments = ("bench", gguf, "--cpu", "--prompt", "5,9", "--batch", 2, "--tokens", 3, "--rounds", 1)
    found = json.loads(ok(here(*arguments, "--json")))
    assert [(rate["phase"], rate["tokens"], rate["batch"]) for rate in found["rates"]] == [
        ("prefill", 5, 1),
        ("prefill", 9, 1),
        ("decode", 3, 2),
    ]
    assert all(rate["rate"] > 0 for rate in found["rates"]) and found["speed"] is None
    assert re.search(r"^decode 2 x 3 after 16 +[\d.]+ ", ok(here(*arguments)), re.MULTILINE)


def test_bench_on_a_device(here, gguf, tmp_path):
    device = some_device()
    text = ok(here("bench", gguf, "--device", device.index, "--prompt", 5, "--batch", 1, "--tokens", 3, "--rounds", 1))
    assert re.search(r"^device speed +read [\d.]+ GB/s, copy [\d.]+ GB/s; f32 [\d.]+ GFLOP/s", text, re.MULTILINE)
    assert re.search(r"^device memory +weights [\d.]+ MiB, KV cache [\d.]+ MiB, other [\d.]+ MiB$", text, re.MULTILINE)
    found = json.loads(
        ok(
            here(
                "bench",
                gguf,
                "--device",
                device.index,
                "--profile",
                "--prompt",
                5,
                "--trace",
                tmp_path / "trace.json",
                "--json",
            )
        )
    )
    ops = {each["op"]: each for each in found["steps"][0]["variants"]}
    assert ops["decode_attention"]["calls"] == 2 and ops["embed"]["num_bytes"] < 4096
    # 8.5 bits per weight: q8_0 has a scale of 2 bytes for 32 weights. The other bytes of matmul are activations.
    assert 1 < ops["matmul_q8_0"]["num_bytes"] * 8 / 8.5 / (ops["matmul_q8_0"]["flops"] / 2) < 1.2
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert re.search(
        r"^matmul_q8_0 +matmul_q8_0_\w+ +\d+ +[\d.]+ +[\d.]+% ",
        ok(here("bench", gguf, "--profile", "--prompt", 5)),
        re.MULTILINE,
    )


def test_bench_refuses_what_does_not_go_together(here, gguf):
    for arguments, words in (
        ((gguf, "--profile", "--host-only"), "use only one of --profile, --host-only"),
        ((gguf, "--cpu", "--profile"), "--cpu cannot be used with"),
        ((gguf, "--trace", "x.json"), "--trace requires --profile"),
        ((gguf, "--context", "128"), "--context requires --host-only"),
        ((), "no model given"),
        ((gguf, "--plot", "/no_such_folder/x.png"), "no folder /no_such_folder"),
        ((gguf, "--plot", "x.bad"), "is not a picture format"),
        ((gguf, "--profile", "--trace", "/no_such_folder/x.json"), "no folder /no_such_folder"),
        ((gguf, "--compare", "http://127.0.0.1:abc"), "answers neither"),
        ((gguf, "--compare", "http://127.0.0.1:1", "--tokens", "1"), "must be at least 2"),
        ((gguf, "--compare", ","), "needs the URL"),
        ((gguf, "--own", "x"), "require --compare"),
        ((gguf, "--profile", "--plot", "x.png"), "--plot cannot be used with"),
    ):
        result = here("bench", *arguments)
        assert result.exit_code == 1 and words in result.stderr, arguments
    for value in ("5,x", "0", "1000000000"):
        assert "not a list of whole numbers from 1 to 256" in here("bench", gguf, "--batch", value).output


@pytest.fixture
def mock_manifest():
    """The manifest of the mock driver, found before `here` changes the cache folder."""
    try:
        return host.mock_manifest()
    except NoDevice as error:
        missing(str(error))


def test_bench_of_the_hosts_share(mock_manifest, here, gguf, monkeypatch):
    assert (
        "`bash scripts/setup.sh --tests` fetches it" in here("bench", gguf, "--host-only").stderr
    )  # not in this cache folder
    monkeypatch.setattr(host, "mock_manifest", lambda: mock_manifest)
    header, *lines = ok(here("bench", gguf, "--host-only", "--batch", "1,2", "--tokens", 20)).splitlines()[1:]
    assert header.split() == "SEQUENCES CONTEXT TOTAL MS MS WITHOUT SAMPLING MS OF A PROMPT TOKEN DISPATCHES".split()
    assert [line.split()[:2] for line in lines] == [["1", "0"], ["2", "0"]]
    assert all(float(line.split()[2]) > 0 for line in lines)


def test_bench_prints_kernels_in_columns():
    from dataclasses import make_dataclass

    from vkbackend.server.cli.bench_text import dataclass_columns

    kind = make_dataclass("Kernel", ["name", "ns_per_weight"])
    assert dataclass_columns([kind("a", 0.25), kind("bcd", 1 / 3)]) == [
        "NAME    NS PER WEIGHT",
        "a       0.25",
        "bcd     0.3333",
    ]
    assert dataclass_columns([]) == ["no measurements"]
