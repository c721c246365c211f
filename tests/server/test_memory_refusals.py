"""A real server refuses a model that its memory does not hold, and stays as it was."""

import os
import re

import pytest
from create_requests import call, create, upload
from live_server import LiveServer
from tiny_gguf import write_tiny_gguf
from vulkan_drivers import impossible

from vkbackend.device import cgroups
from vkbackend.server.cli.models import memory_lines

MIB = 1 << 20
TOO_LONG = 1 << 18  # tokens: 512 MiB of cache
GIB_OF_HOST, GIB_OF_DEVICE = "0.25", "0.15"


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write_tiny_gguf(path, num_layers=4, context_length=1 << 20).read_bytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory, device, contents):
    limits = {"HOST_FREE_GIB": GIB_OF_HOST, "DEVICE_GIB": GIB_OF_DEVICE}
    with LiveServer(tmp_path_factory.mktemp("models"), environment={"OLLAMA_VULKAN": "1", **limits}) as server:
        assert create(server, "m", upload(server, contents))[0] == 200
        yield server


def generate(server, **options):
    """The status and the answer; the model is unloaded afterwards."""
    request = {"model": "m", "prompt": "ab", "raw": True, "stream": False, "keep_alive": 0}
    return call(server, "/api/generate", request | {"options": {"num_predict": 2, **options}})


def private_bytes(server) -> int:
    """Anonymous and shared memory of the server."""
    with open(f"/proc/{server.process.pid}/smaps_rollup") as lines:
        found = dict(re.findall(r"^(\w+): +(\d+) kB", lines.read(), re.MULTILINE))
    return 1024 * (int(found["Pss_Anon"]) + int(found["Pss_Shmem"]))


@pytest.mark.parametrize(
    "num_gpu, words",
    [
        (0, r"model requires more system memory \(\d+\.\d [MG]iB\) than is available \(256\.0 MiB\)"),
        (-1, r"model requires more system memory \(\d+\.\d [MG]iB\) than is available \(256\.0 MiB\)"),
        (5, "memory layout cannot be allocated with num_gpu = 5"),
        (2, r"memory layout cannot be allocated with num_gpu = 2|model requires more system memory .*"),
    ],
    ids=["CPU", "automatic", "device", "device and CPU"],
)
def test_a_placement_that_does_not_fit_is_refused_and_leaves_nothing_behind(server, num_gpu, words):
    assert generate(server, num_ctx=128, num_gpu=num_gpu)[0] == 200
    base = private_bytes(server)
    status, answer = generate(server, num_ctx=TOO_LONG, num_gpu=num_gpu)
    assert status == 500 and re.fullmatch(words, answer["error"]), answer
    assert generate(server, num_ctx=128, num_gpu=num_gpu)[0] == 200
    assert private_bytes(server) - base < 32 * MIB


@pytest.mark.parametrize("num_gpu", [0, -1], ids=["CPU", "automatic"])
def test_a_model_that_never_fits_unloads_no_other(server, num_gpu):
    stays = {"model": "m", "keep_alive": "5m", "stream": False, "options": {"num_ctx": 128, "num_gpu": num_gpu}}
    assert call(server, "/api/generate", stays)[0] == 200
    status, answer = generate(server, num_ctx=TOO_LONG, num_gpu=num_gpu)
    assert status == 500 and answer["error"].startswith("model requires more system memory ("), answer
    status, running = call(server, "/api/ps", method="GET")
    assert [model["context_length"] for model in running["models"]] == [128]
    generate(server, num_ctx=128, num_gpu=num_gpu)


def test_a_plan_that_does_not_fit_promises_no_room(server):
    status, plan = call(server, "/api/memory", {"name": "m", "options": {"num_ctx": TOO_LONG, "num_gpu": 0}})
    assert status == 200 and not plan["fits"] and plan["context_length"] == plan["num_ctx"] == TOO_LONG
    *_, cache, verdict = memory_lines(plan)
    assert cache == f"A cache for {TOO_LONG} tokens (f16) is counted."
    assert verdict.startswith("The model does not fit: model requires more system memory (")


@pytest.mark.parametrize("num_ctx", [1e300, 1 << 31, 0, -1])
def test_a_context_that_no_model_has_is_not_planned(server, num_ctx):
    status, answer = call(server, "/api/memory", {"model": "m", "options": {"num_ctx": num_ctx}})
    assert (status, answer) == (400, {"error": "num_ctx must be from 1 to 2147483647"})


def test_the_limit_of_a_control_group_is_what_is_available(tmp_path, contents):
    """The kernel would end the server if it counted the machine's memory."""
    own, names = next(cgroups._groups(), (None, None))
    group = own and own / f"vkbackend-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / names[0]).write_text(str(400 * MIB))
    except (OSError, AttributeError) as error:
        if group and group.is_dir():
            group.rmdir()
        impossible(f"no control group with a limit of memory can be made here ({error})")
    try:
        with LiveServer(tmp_path / "models") as server:
            (group / "cgroup.procs").write_text(str(server.process.pid))
            assert create(server, "m", upload(server, contents))[0] == 200
            status, answer = generate(server, num_ctx=TOO_LONG)
            assert status == 500 and answer["error"].startswith("model requires more system memory ("), answer
            available = re.search(r"available \(([\d.]+) MiB\)", answer["error"])
            assert available and float(available[1]) <= 400
            assert generate(server, num_ctx=128)[0] == 200
    finally:
        group.rmdir()
