"""A model that is deleted while it is loaded is unloaded, unless another one has the same weights."""

import asyncio
import threading

import pytest
from generate_world import generate, run, serving


@pytest.mark.parametrize(
    "names, derives, left",
    [(["m"], False, 0), (["m", "copied"], False, 0), (["copied"], False, 1), (["m", "copied"], True, 1)],
)
def test_a_deleted_model_leaves_memory(tmp_path, names, derives, left):
    async def scenario():
        async with serving(tmp_path) as client:
            assert (await client.post("/api/copy", json={"source": "m", "destination": "copied"})).status == 200
            derived = {"model": "derived", "from": "m", "system": "Be brief.", "stream": False}
            if derives:
                assert (await client.post("/api/create", json=derived)).status == 200
            if names == ["m"]:
                assert (await client.delete("/api/delete", json={"model": "copied"})).status == 200
            await generate(client, prompt="a", stream=False)
            assert len((await (await client.get("/api/ps")).json())["models"]) == 1
            for name in names:
                assert (await client.delete("/api/delete", json={"model": name})).status == 200
            assert len((await (await client.get("/api/ps")).json())["models"]) == left

    run(scenario)


def test_a_model_that_is_deleted_while_it_loads_serves_its_request_and_goes(tmp_path):
    async def scenario():
        async with serving(tmp_path) as client:
            load = client.loaded_models._loader.load
            begun = threading.Event()
            may_end = threading.Event()

            def slow_load(stored, options, whole, progress):
                begun.set()
                assert may_end.wait(10)
                return load(stored, options, whole, progress)

            client.loaded_models._loader.load = slow_load
            asked = asyncio.create_task(generate(client, prompt="a", stream=False, keep_alive=-1))
            await asyncio.to_thread(begun.wait)
            assert (await client.delete("/api/delete", json={"model": "m"})).status == 200
            assert (await client.post("/api/show", json={"model": "m"})).status == 404
            may_end.set()
            answer, [body] = await asked
            assert answer.status == 200 and body["response"] == "Hello!"
            while (await (await client.get("/api/ps")).json())["models"]:
                await asyncio.sleep(0.01)
            answer, [body] = await generate(client, prompt="a", stream=False)
            assert answer.status == 404

    run(scenario)
