"""Fixtures of the tests of the engine."""

import pytest


@pytest.fixture(autouse=True)
def exact_cpu(monkeypatch):
    """The CPU path is the numpy reference, which the tests in this folder compare with."""
    monkeypatch.setenv("VKBACKEND_CPU", "exact")


@pytest.fixture
def on_ggml(monkeypatch):
    """The CPU path runs on ggml."""
    from cpu_programs import require_ggml

    monkeypatch.setenv("VKBACKEND_CPU", "ggml")
    return require_ggml()


@pytest.fixture(params=["device", "on_ggml"])
def path_with_bits(request):
    """Each path that promises the same bits in any company: a device, or None for the CPU with ggml."""
    found = request.getfixturevalue(request.param)
    return found if request.param == "device" else None
