"""Fixtures of the tests of registries."""

import pytest
from docker_registry import DockerRegistry
from fault_proxy import FaultProxy
from registry_world import DATA, make, push

from vkbackend.server.library.store import Store


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    """Debian's registry with the model library/m, whose file is DATA."""
    folder = tmp_path_factory.mktemp("registry")
    with DockerRegistry(folder / "registry") as registry:
        store = Store(folder / "source")
        make(store, f"{registry.host}/library/m", DATA)
        push(store, f"{registry.host}/library/m")
        registry.source = store
        yield registry


@pytest.fixture(scope="module")
def proxy_of_all(debian):
    with FaultProxy(debian.host) as proxy:
        yield proxy


@pytest.fixture
def proxy(proxy_of_all):
    proxy_of_all.forget()
    return proxy_of_all


@pytest.fixture(scope="module")
def proxies(debian):
    """Two hosts."""
    with FaultProxy(debian.host) as first, FaultProxy(debian.host) as second:
        yield first, second


@pytest.fixture
def hosts(proxies, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for proxy in proxies:
        proxy.forget()
    return proxies
