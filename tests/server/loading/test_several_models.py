"""Several models in memory: which are loaded, kept and unloaded. The tests control the loader, whose memory has a fixed
size.
"""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
from loaded_models_world import stored, until

from vkbackend.errors import OutOfMemory
from vkbackend.server.errors import ApiError
from vkbackend.server.go import durations
from vkbackend.server.loading.loaded_model import LoadResult
from vkbackend.server.loading.loaded_models import LoadedModels
from vkbackend.server.wire.options import Options

SECOND = durations.SECOND


class Loader:
    """Models take as many units of `memory` as the first number in their name says. Loads of "slow" wait for `gate`."""

    def __init__(self, memory=10):
        self.memory, self.taken, self.log = memory, {}, []
        self.gate = threading.Event()
        self.gate.set()

    def num_devices(self):
        return 1

    def size(self, model):
        return int("".join(filter(str.isdigit, model.name)) or 1)

    def check_alone(self, model, options, held):
        assert held == sum(self.taken.values())
        if self.size(model) > self.memory:
            raise OutOfMemory(f"{model.name} needs {self.size(model)}, there are {self.memory}")

    def load(self, model, options, whole, progress):
        size = self.size(model)
        if "slow" in model.name:
            assert self.gate.wait(10)
        if size + sum(self.taken.values()) > self.memory:
            raise OutOfMemory(f"{model.name} needs {size}, {self.memory - sum(self.taken.values())} are free")
        key = object()
        self.taken[key] = size
        self.log.append(f"+{model.name}")

        def close():
            time.sleep(0.02)
            del self.taken[key]
            self.log.append(f"-{model.name}")

        return LoadResult(
            SimpleNamespace(failure=None), None, None, size, size, options.num_ctx, close, (("GPU", size),)
        )


def run(scenario, memory=10, **settings):
    async def main():
        loader = Loader(memory)
        models = LoadedModels(None, loader, **settings)
        try:
            await asyncio.wait_for(scenario(models, loader), 20)
        finally:
            loader.gate.set()
            await models.close()
        assert loader.taken == {}

    asyncio.run(main())


async def use(models, name, keep_alive=None, seconds=0.0):
    async with models.acquire(stored(name), Options.defaults(), keep_alive) as model:
        await asyncio.sleep(seconds)
        return model


def names(models):
    return [model.name.removesuffix(":latest") for model in models.running()]


def test_several_stay_and_the_last_to_expire_is_shown_first():
    async def scenario(models, loader):
        for name, seconds in (("a", 60), ("b", 3600), ("c", 600)):
            await use(models, name, seconds * SECOND)
        await use(models, "a", 60 * SECOND)
        assert names(models) == ["b", "c", "a"] and loader.log == ["+a:latest", "+b:latest", "+c:latest"]

    run(scenario)


def test_of_too_many_models_an_unused_one_is_evicted():
    async def scenario(models, loader):
        await use(models, "long", -1)
        await use(models, "short", 60 * SECOND)
        await use(models, "new")
        assert loader.log == ["+long:latest", "+short:latest", "-short:latest", "+new:latest"]

    run(scenario, max_models=2)


def test_the_limit_is_three_for_each_device(monkeypatch):
    monkeypatch.delenv("OLLAMA_MAX_LOADED_MODELS", raising=False)

    async def scenario(models, loader):
        loader.num_devices = lambda: 2
        for name in "abcdefg":
            await use(models, name)
        assert len(models.running()) == 6

    run(scenario)


def test_as_many_give_way_as_the_memory_asks_for_and_it_is_free_before_the_next_load():
    async def scenario(models, loader):
        await use(models, "a3", 60 * SECOND)
        await use(models, "b3", 50 * SECOND)
        await use(models, "c3", 70 * SECOND)
        await use(models, "d5")
        assert loader.log[3:] == ["-b3:latest", "-a3:latest", "+d5:latest"]
        assert set(names(models)) == {"c3", "d5"}

    run(scenario, max_models=9)


def test_what_fits_nowhere_is_that_requests_error():
    async def scenario(models, loader):
        for name in ("a11", "c11"):
            with pytest.raises(OutOfMemory, match="needs 11"):
                await use(models, name)
            await use(models, "b10")
        assert loader.log == ["+b10:latest"]  # nothing is unloaded for it

    run(scenario)


def test_a_load_does_not_block_requests_to_a_loaded_model():
    async def scenario(models, loader):
        await use(models, "a")
        loader.gate.clear()
        loading = asyncio.create_task(use(models, "slow"))
        await asyncio.sleep(0.03)
        await asyncio.wait_for(asyncio.gather(*(use(models, "a") for _ in range(20))), 1)
        assert not loading.done() and names(models) == ["a"]
        await asyncio.wait_for(models.expire(stored("a")), 1)
        assert names(models) == []
        loader.gate.set()
        await loading

    run(scenario)


def test_loads_come_in_the_order_of_their_requests():
    async def scenario(models, loader):
        loader.gate.clear()
        asked = []
        for name in ("slow", "b", "c"):
            asked.append(asyncio.create_task(use(models, name)))
            await asyncio.sleep(0)
        await asyncio.sleep(0.03)
        assert loader.log == []
        loader.gate.set()
        await asyncio.gather(*asked)
        assert loader.log == ["+slow:latest", "+b:latest", "+c:latest"]

    run(scenario)


def test_a_model_in_use_is_evicted_after_its_users_and_new_ones_queue_behind_the_waiting_request():
    async def scenario(models, loader):
        first = asyncio.create_task(use(models, "a", seconds=0.1))
        await until(lambda: models.loaded and models.loaded[0].num_users)
        other = asyncio.create_task(use(models, "b"))
        await until(lambda: models.loaded[0].is_leaving)
        again = asyncio.create_task(use(models, "a"))
        await asyncio.gather(first, other, again)
        assert loader.log == ["+a:latest", "-a:latest", "+b:latest", "-b:latest", "+a:latest"]

    run(scenario, max_models=1)


def test_a_load_that_takes_too_long_is_an_error_and_is_released_when_it_ends():
    async def scenario(models, loader):
        loader.gate.clear()
        with pytest.raises(
            ApiError, match="timed out waiting for slow:latest to load: it took longer than 50ms"
        ) as slow:
            await use(models, "slow")
        assert slow.value.status == 500
        with pytest.raises(ApiError, match="timed out waiting for b:latest"):  # loads come one after the other
            await use(models, "b")
        loader.gate.set()
        await until(lambda: loader.log == ["+slow:latest", "-slow:latest"])
        await use(models, "b")
        assert names(models) == ["b"]

    run(scenario, timeout=SECOND // 20)


def test_a_recreated_model_is_loaded_while_the_old_one_is_in_use():
    async def scenario(models, loader):
        old = asyncio.create_task(use(models, "a", seconds=0.2))
        await until(lambda: models.loaded and models.loaded[0].num_users)
        recreated = SimpleNamespace(name="a:latest", digest="another", gguf_path="other weights", config={})
        async with models.acquire(recreated, Options.defaults()) as model:
            assert model.stored is recreated and not old.done() and len(loader.taken) == 2
        await old
        await until(lambda: loader.log == ["+a:latest", "+a:latest", "-a:latest"])
        assert [model.stored for model in models.loaded] == [recreated]

    run(scenario)


def test_a_queue_of_none_still_serves_one_at_a_time():
    async def scenario(models, loader):
        loader.gate.clear()
        first = asyncio.create_task(use(models, "slow"))
        await asyncio.sleep(0.03)
        with pytest.raises(ApiError) as refused:
            await use(models, "b")
        assert refused.value.status == 503
        loader.gate.set()
        await first
        await use(models, "b")

    run(scenario, max_queue=0)


def test_a_request_cancelled_during_an_eviction_leaves_nothing_behind():
    async def scenario(models, loader):
        user = asyncio.create_task(use(models, "a", seconds=0.15))
        await until(lambda: models.loaded and models.loaded[0].num_users)
        waiting = asyncio.create_task(use(models, "b"))
        await until(lambda: models.loaded[0].is_leaving)
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.wait_for(use(models, "c"), 5)
        await user
        assert loader.log == ["+a:latest", "-a:latest", "+c:latest"] and models._num_waiting == 0

    run(scenario, max_models=1)


def test_a_loaded_model_without_requests_stays_for_its_keep_alive():
    async def scenario(models, loader):
        loader.gate.clear()
        only = asyncio.create_task(use(models, "slow"))
        await asyncio.sleep(0.03)
        closing = asyncio.create_task(asyncio.sleep(0.1))
        models._unloading.add(closing)  # what is still being freed when the load is done
        closing.add_done_callback(models._unloading.discard)
        loader.gate.set()
        await until(lambda: models.loaded)
        only.cancel()
        await until(lambda: loader.log == ["+slow:latest", "-slow:latest"])

    run(scenario, keep_alive=SECOND // 20)


class SplittingLoader(Loader):
    """Puts layers that do not fit on the CPU, unless all of them are asked for."""

    def load(self, model, options, whole, progress):
        if not whole:
            self.log.append("split")
        return super().load(model, options, whole, progress)


def test_a_model_is_split_only_where_nobody_can_give_way():
    async def main():
        loader = SplittingLoader(4)
        models = LoadedModels(None, loader, max_models=3)
        await use(models, "a2")
        await use(models, "b3")
        await use(models, "c1")
        assert loader.log == ["split", "+a2:latest", "-a2:latest", "split", "+b3:latest", "+c1:latest"]
        await models.close()

    asyncio.run(main())
