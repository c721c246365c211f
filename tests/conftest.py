"""Fixtures of all tests. This process sees one software driver, so that results are the same on every machine.

VK_DRIVER_FILES set by the caller wins: `VK_DRIVER_FILES=/usr/share/vulkan/icd.d/radeon_icd.x86_64.json pytest` runs
on a real GPU.
"""

import logging
import os
from dataclasses import replace
from pathlib import Path

import early_checks
import markers
import pytest
import vulkan_drivers
from vulkan_drivers import DEFAULT, Driver, missing

if DEFAULT.manifest is not None and not os.environ.get("VK_DRIVER_FILES"):
    os.environ.update(DEFAULT.environment)


def _open(force_discrete: bool = False):
    from vkbackend.device.choosing import choose
    from vkbackend.device.context import Device
    from vkbackend.device.discover import list_devices
    from vkbackend.errors import NoDevice

    try:
        return Device(choose(list_devices()).device, force_discrete=force_discrete)
    except NoDevice as error:
        missing(f"no Vulkan device: {error}")


@pytest.fixture(autouse=True)
def root_logger():
    """Commands that serve within the process set the log up, which the next test must not see: nor that of a fixture
    that lasts longer.
    """
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    yield root
    root.setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def device():
    """The default device, opened once."""
    opened = _open()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def integrated_device(device):
    """The default device, taken for a GPU that shares the host's memory."""
    from vkbackend.device.context import Device
    from vkbackend.device.device_info import DeviceType

    opened = Device(replace(device.info, type=DeviceType.INTEGRATED))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def discrete_device():
    """The default device, taken for a GPU with memory of its own: everything goes through the upload ring."""
    opened = _open(force_discrete=True)
    yield opened
    opened.close()


@pytest.fixture(params=vulkan_drivers.DRIVERS, ids=lambda driver: driver.name)
def driver(request) -> Driver:
    """Each software driver in turn, for `vulkan_drivers.run_on`."""
    return request.param.require()


_figures: list[str] = []


@pytest.fixture(scope="session")
def record_figure():
    """Keep a measured figure for the summary at the end of the run."""
    return _figures.append


def pytest_terminal_summary(terminalreporter):
    if _figures:
        terminalreporter.section("measured")
        for line in _figures:
            terminalreporter.line(line)


def pytest_collection_finish(session):
    """Long runs begin the check of all kernels at once, behind the other tests."""
    is_checked = any("test_every_variant_agrees_with_its_twin" in item.name for item in session.items)
    if is_checked and len(session.items) > 1000 and not session.config.option.collectonly:
        early_checks.begin()


def pytest_sessionfinish():
    early_checks.end()


def pytest_collection_modifyitems(items):
    for item in items:
        for name in markers.of(item):
            item.add_marker(name)


@pytest.fixture(scope="session")
def large_vocabularies(tmp_path_factory) -> dict[str, Path]:
    """GGUF files without tensors: "llama" has 128,256 BPE tokens and over 250,000 merges, "gemma" 262,144 SentencePiece
    tokens, "gemma4" these as BPE tokens with over 500,000 merges, "t5" these as Unigram tokens.
    """
    import gguf
    import real_vocabularies

    folder = tmp_path_factory.mktemp("vocabularies")
    found = {name: folder / f"{name}.gguf" for name in ("llama", "gemma", "gemma4", "t5")}
    for name, path in found.items():
        writer = gguf.GGUFWriter(path, "llama")
        if name == "llama":
            real_vocabularies.add_bpe(writer, 128_256)
        else:
            model = "llama" if name == "gemma" else name
            real_vocabularies.add_sentencepiece(writer, 262_144, is_gemma=True, model=model)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    return found
