"""Fixtures of the tests of the model store."""

import pytest

from vkbackend.server.library.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")
