"""Loading and unloading: when, how often, and what happens if something fails. The tests control the loader."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from loaded_models_world import LoaderOf, stored, until

from vkbackend.errors import OutOfMemory
from vkbackend.server.errors import ApiError
from vkbackend.server.go import durations
from vkbackend.server.loading.keep_alive import default_keep_alive
from vkbackend.server.loading.loaded_model import LoadResult
from vkbackend.server.loading.loaded_models import LoadedModels
from vkbackend.server.wire.options import Options

SECOND = durations.SECOND


class Loader:
    """Records what it loaded and closed. gate: a load waits until it is set; error: raised by the next load."""

    def __init__(self):
        self.loaded, self.closed, self.error = [], [], None
        self.gate = threading.Event()
        self.gate.set()

    def check_alone(self, model, options, held):
        if options.num_ctx > 1 << 20:
            raise OutOfMemory("too long for this machine")

    def num_devices(self):
        return 1

    def load(self, model, options, whole, progress):
        assert self.gate.wait(10)
        if self.error:
            error, self.error = self.error, None
            raise error
        assert len(self.loaded) == len(self.closed), "two models at a time"
        self.loaded.append((model.name, options.num_ctx))
        engine = SimpleNamespace(failure=None)
        return LoadResult(engine, None, None, 100, 60, options.num_ctx, lambda: self.closed.append(model.name))


def run(scenario, **settings):
    async def main():
        loader = Loader()
        models = LoadedModels(None, loader, **{"max_models": 1} | settings)
        try:
            await asyncio.wait_for(scenario(models, loader), 20)
        finally:
            loader.gate.set()
            await models.close()
        assert len(loader.closed) == len(loader.loaded)

    asyncio.run(main())


async def use(models, name, num_ctx=64, keep_alive=None, seconds=0.0):
    async with models.acquire(stored(name), Options.defaults().update({"num_ctx": num_ctx}), keep_alive) as model:
        await asyncio.sleep(seconds)
        return model


def test_many_requests_load_once():
    async def scenario(models, loader):
        await asyncio.gather(*(use(models, "a", seconds=0.01) for _ in range(10)))
        assert loader.loaded == [("a:latest", 64)] and loader.closed == []

    run(scenario)


def test_another_context_length_loads_again_and_other_options_do_not():
    async def scenario(models, loader):
        await use(models, "a", 64)
        await use(models, "a", 128)
        options = Options.defaults().update({"num_ctx": 128, "temperature": 0.1, "seed": 3})
        async with models.acquire(stored("a"), options):
            pass
        assert loader.loaded == [("a:latest", 64), ("a:latest", 128)] and loader.closed == ["a:latest"]

    run(scenario)


def test_what_never_fits_is_refused_before_anything_is_unloaded():
    async def scenario(models, loader):
        await use(models, "a")
        for name in ("a", "b"):  # the same model with other options, and one too many
            with pytest.raises(OutOfMemory, match="too long"):
                await use(models, name, (1 << 20) + 1)
        assert loader.closed == [] and [model.name for model in models.running()] == ["a:latest"]

    run(scenario)


def test_another_model_waits_for_the_users_of_the_first():
    async def scenario(models, loader):
        first = asyncio.create_task(use(models, "a", seconds=0.1))
        await until(lambda: models.running() and models.loaded[0].num_users)
        await use(models, "b")
        assert first.done() and loader.loaded == [("a:latest", 64), ("b:latest", 64)] and loader.closed == ["a:latest"]

    run(scenario)


def test_keep_alive_zero_unloads_after_use_and_a_short_one_after_a_while():
    async def scenario(models, loader):
        await use(models, "a", keep_alive=0)
        assert models.running() == []
        await use(models, "a", keep_alive=SECOND // 20)
        assert [model.name for model in models.running()] == ["a:latest"]
        await until(lambda: not models.running())
        await use(models, "a", keep_alive=-1)
        assert models.loaded[0]._timer is None and models.running()[0].expires_at > "2200"

    run(scenario)


def test_a_request_without_keep_alive_leaves_it_as_it_was():
    async def scenario(models, loader):
        await use(models, "a", keep_alive=-1)
        await use(models, "a")
        assert models.running()[0].expires_at > "2200"
        await models.expire(stored("a"))
        await use(models, "a")
        assert models.loaded[0].keep_alive == 3 * SECOND

    run(scenario, keep_alive=3 * SECOND)


def test_models_made_of_the_same_weights_are_loaded_once_and_go_together():
    async def scenario(models, loader):
        await use(models, "a")
        for name in ("b", "a"):
            async with models.acquire(stored(name, weights="a"), Options.defaults().update({"num_ctx": 64})):
                pass
        assert (
            loader.loaded == [("a:latest", 64)]
            and models.holds(stored("b", weights="a"))
            and not models.holds(stored("b"))
        )
        anew = SimpleNamespace(**vars(stored("a")) | {"digest": "of a made anew with another system text"})
        async with models.acquire(anew, Options.defaults().update({"num_ctx": 64})):
            assert [model.digest for model in models.running()] == [anew.digest]
        async with models.acquire(stored("b", weights="a"), Options.defaults().update({"num_ctx": 128})):
            pass
        assert loader.loaded[1:] == [("b:latest", 128)] and loader.closed == ["a:latest"]
        await models.expire(stored("a"))
        assert loader.closed == ["a:latest", "b:latest"]

    run(scenario)


def test_use_puts_the_end_off():
    async def scenario(models, loader):
        await use(models, "a", keep_alive=SECOND // 5)
        for _ in range(4):
            await asyncio.sleep(0.1)
            await use(models, "a", keep_alive=SECOND // 5)
        assert len(loader.loaded) == 1

    run(scenario)


def test_expire_unloads_at_once_or_after_the_last_user():
    async def scenario(models, loader):
        await use(models, "a")
        await models.expire(stored("b"))
        assert loader.closed == []
        await models.expire(stored("a"))
        assert loader.closed == ["a:latest"] and models.running() == []
        user = asyncio.create_task(use(models, "a", seconds=0.05))
        await until(lambda: models.running() and models.loaded[0].num_users)
        await models.expire(stored("a"))
        assert loader.closed == ["a:latest"]
        await user
        await until(lambda: loader.closed == ["a:latest"] * 2)

    run(scenario)


def test_expired_during_its_load_it_serves_waiting_requests_and_is_unloaded():
    async def scenario(models, loader):
        loader.gate.clear()
        user = asyncio.create_task(use(models, "a", keep_alive=60 * SECOND, seconds=0.02))
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(models.expire(stored("a")))
        await asyncio.sleep(0.02)
        loader.gate.set()
        await asyncio.gather(user, stopping)
        await until(lambda: loader.closed == ["a:latest"])
        assert loader.loaded == [("a:latest", 64)] and models.running() == []

    run(scenario)


@pytest.mark.parametrize("keep_alive", [60 * SECOND, -1, None])
def test_deleted_during_its_load_it_serves_waiting_requests_and_is_unloaded(keep_alive):
    async def scenario(models, loader):
        loader.gate.clear()
        users = [asyncio.create_task(use(models, "a", keep_alive=keep_alive, seconds=0.02)) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert models.holds(stored("a")) and not models.holds(stored("b"))
        await asyncio.wait_for(models.remove(stored("a")), 1)  # waits for no load
        loader.gate.set()
        await asyncio.gather(*users)
        await until(lambda: loader.closed == ["a:latest"])
        assert loader.loaded == [("a:latest", 64)] and models.running() == []

    run(scenario)


@pytest.mark.parametrize("keep_alive", [60 * SECOND, -1])
def test_deleted_during_an_abandoned_load_it_is_unloaded(keep_alive):
    async def scenario(models, loader):
        loader.gate.clear()
        only = asyncio.create_task(use(models, "a"))
        await asyncio.sleep(0.05)
        only.cancel()
        await models.remove(stored("a"))
        loader.gate.set()
        await until(lambda: loader.closed == ["a:latest"])

    run(scenario, keep_alive=keep_alive)


def test_deleted_in_use_it_is_unloaded_after_its_last_user():
    async def scenario(models, loader):
        user = asyncio.create_task(use(models, "a", keep_alive=-1, seconds=0.05))
        await until(lambda: models.running() and models.loaded[0].num_users)
        await models.remove(stored("a"))
        assert loader.closed == []
        await user
        await until(lambda: loader.closed == ["a:latest"])

    run(scenario)


def test_a_load_that_fails_after_its_model_was_deleted_leaves_no_trace():
    async def scenario(models, loader):
        loader.gate.clear()
        loader.error = OutOfMemory("too large; use a smaller one")
        user = asyncio.create_task(use(models, "a"))
        await asyncio.sleep(0.05)
        await models.remove(stored("a"))
        loader.gate.set()
        with pytest.raises(OutOfMemory):
            await user
        await use(models, "a")  # created again in the meantime
        assert [model.name for model in models.running()] == ["a:latest"]

    run(scenario)


def test_a_load_that_fails_is_that_requests_error_alone():
    async def scenario(models, loader):
        loader.error = OutOfMemory("too large; use a smaller one")
        results = await asyncio.gather(use(models, "a"), use(models, "a"), return_exceptions=True)
        assert isinstance(results[0], OutOfMemory) and not isinstance(results[1], Exception)
        assert models.running()[0].size == 100 and models.running()[0].size_vram == 60

    run(scenario)


def test_a_request_given_up_while_loading_leaves_the_model_to_the_next():
    async def scenario(models, loader):
        loader.gate.clear()
        first = asyncio.create_task(use(models, "a"))
        await asyncio.sleep(0.05)
        first.cancel()
        second = asyncio.create_task(use(models, "a"))
        await asyncio.sleep(0.05)
        loader.gate.set()
        await second
        assert loader.loaded == [("a:latest", 64)]

    run(scenario)


def test_a_stopped_engine_is_loaded_again():
    async def scenario(models, loader):
        model = await use(models, "a")
        model.engine.failure = RuntimeError("device lost")
        await use(models, "a")
        assert len(loader.loaded) == 2

    run(scenario)


def test_too_many_waiting_are_refused():
    async def scenario(models, loader):
        loader.gate.clear()
        waiting = [asyncio.create_task(use(models, "a")) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(ApiError) as refused:
            await use(models, "a")
        assert refused.value.status == 503
        loader.gate.set()
        await asyncio.gather(*waiting)

    run(scenario, max_queue=2)


def test_small_contexts_are_raised_to_the_smallest():
    async def scenario(models, loader):
        assert (await use(models, "a", num_ctx=1)).context_length == 4

    run(scenario)


def test_a_broken_unload_does_not_prevent_loading():
    async def scenario(models, loader):
        def broken(model, options):
            result = loader.load(model, options, False, None)
            return LoadResult(result.engine, None, None, 1, 1, 64, lambda: (result.close(), 1 / 0))

        models._loader = LoaderOf(broken)
        await use(models, "a")
        await use(models, "b")
        assert [name for name, _ in loader.loaded] == ["a:latest", "b:latest"]

    run(scenario)


@pytest.mark.parametrize("text, seconds", [("", 300), ("10m", 600), ("30", 30), ("0", 0), ("nonsense", 300)])
def test_default_keep_alive(monkeypatch, text, seconds):
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", text)
    assert default_keep_alive() == seconds * SECOND


def test_negative_keep_alive_is_for_ever(monkeypatch):
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", "-1")
    assert default_keep_alive() == durations.FOREVER


def test_a_default_of_zero_serves_each_request_and_unloads():
    async def scenario(models, loader):
        await asyncio.gather(use(models, "a"), use(models, "b"), use(models, "a"))
        assert models.running() == [] and {name for name, _ in loader.loaded} == {"a:latest", "b:latest"}

    run(scenario, keep_alive=0)


def test_a_load_that_all_gave_up_still_rests_and_ends():
    async def scenario(models, loader):
        loader.gate.clear()
        only = asyncio.create_task(use(models, "a"))
        await asyncio.sleep(0.05)
        only.cancel()
        loader.gate.set()
        await until(lambda: loader.closed == ["a:latest"])

    run(scenario, keep_alive=SECOND // 20)


def test_closing_while_a_model_loads_refuses_the_request():
    async def scenario(models, loader):
        loader.gate.clear()
        asking = asyncio.create_task(use(models, "a"))
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(models.close())
        loader.gate.set()
        await closing
        with pytest.raises(ApiError) as refused:
            await asking
            await use(models, "a")
        assert refused.value.status == 503

    run(scenario)
