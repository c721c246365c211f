"""A model that is deleted while it is in memory leaves it, unless another one is made of the same weights."""

import pytest
from test_generate import generate, run, serving


@pytest.mark.parametrize("names, derives, left", [(["m"], False, 0), (["m", "copied"], False, 0), (["copied"], False, 1), (["m", "copied"], True, 1)])
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
