"""A model that is deleted while it is in memory leaves it, unless another name stands for the same model."""

import pytest
from test_generate import generate, run, serving


@pytest.mark.parametrize("names, left", [(["m"], 0), (["m", "copied"], 0), (["copied"], 1)])
def test_a_deleted_model_leaves_memory(tmp_path, names, left):
    async def scenario():
        async with serving(tmp_path) as client:
            assert (await client.post("/api/copy", json={"source": "m", "destination": "copied"})).status == 200
            if names == ["m"]:
                assert (await client.delete("/api/delete", json={"model": "copied"})).status == 200
            await generate(client, prompt="a", stream=False)
            assert len((await (await client.get("/api/ps")).json())["models"]) == 1
            for name in names:
                assert (await client.delete("/api/delete", json={"model": name})).status == 200
            assert len((await (await client.get("/api/ps")).json())["models"]) == left
    run(scenario)
