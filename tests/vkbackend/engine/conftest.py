"""Fixtures of the tests in this folder."""

import pytest
from engine_world import World


@pytest.fixture
def world():
    worlds = []

    def make(*arguments, **options):
        worlds.append(World(*arguments, **options))
        return worlds[-1]

    yield make
    for made in worlds:
        if made.runner.gate:
            made.runner.gate.release(10_000)
        made.engine.close()
        assert not made.engine._thread.is_alive()
        assert made.runner.cached == {}, "the engine left sequences open"
        assert sorted(made.runner.pages.free_pages) == list(range(made.runner.pages.num_pages)), (
            "the engine left pages in use"
        )
