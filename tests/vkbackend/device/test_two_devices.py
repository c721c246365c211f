"""Two devices in one process: which one models run on, over both, side by side."""

from pathlib import Path

import numpy as np
import pytest
from tiny_gguf import write_tiny_gguf
from vulkan_drivers import LAVAPIPE, SWIFTSHADER, run_on

LAYERS = 5  # four blocks and the output


@pytest.fixture(scope="module", params=["0", "1"], ids=["as-they-are", "as-gpus"])
def found(request, tmp_path_factory) -> dict:
    """As GPUs with memory of their own, everything is copied there and back."""
    path = write_tiny_gguf(tmp_path_factory.mktemp("two") / "tiny.gguf", "llama", "q4_0", num_layers=LAYERS - 1)
    files = ":".join(str(driver.require().manifest) for driver in (LAVAPIPE, SWIFTSHADER))
    environment = {
        "VK_DRIVER_FILES": files,
        "VK_ICD_FILENAMES": files,
        "OLLAMA_VULKAN": "1",
        "GGML_VK_VISIBLE_DEVICES": "0,1",
        "VKBACKEND_FORCE_DISCRETE": request.param,
        "VKBACKEND_CPU": "exact",  # ggml rounds activations to 8 bits
    }
    return run_on(None, Path("run_two_devices.py"), path, environment=environment, seconds=120)


def agree(one: dict, other: dict) -> bool:
    """Within 5e-6. Compared with float64, log-probabilities of this model are off by about 1e-6, on the CPU,
    SwiftShader and Lavapipe alike; here they are rounded to 1e-6.

    This depends on the weights: random ones of q8_0 are 16 times as large, so that attention scores reach 70, and then
    the rounding of float32 sums makes log-probabilities differ by 4e-5, on the CPU as well.
    """
    return len(one["logprobs"]) == len(other["logprobs"]) == 12 and np.allclose(
        one["logprobs"], other["logprobs"], rtol=0, atol=5e-6
    )


def test_cpu_devices_are_used_where_they_are_named(found):
    assert len(found["devices"]) == 2 and set(found["usable"]) == set(found["devices"])
    assert len(found["usable unnamed"]) == 1
    assert found["reasons unnamed"].count("preferred (best by type and memory)") == 1
    assert found["sentence"].endswith(f"then {found['usable'][1]}")


def test_the_filter_leaves_one(found):
    for index in (0, 1):
        assert found[f"only {index}"]["placement"] == [[found["devices"][index], LAYERS]]
    assert agree(found["only 0"], found["only 1"])


def test_what_fits_one_goes_to_one_and_main_gpu_says_to_which(found):
    assert len(found["one"]["placement"]) == 1 and found["one"]["placement"][0][1] == LAYERS
    assert found["main_gpu"]["placement"] == [[found["devices"][1], LAYERS]]
    assert agree(found["one"], found["main_gpu"])


def test_spread_uses_both_with_the_log_probabilities_of_one(found):
    places = found["spread"]["placement"]
    assert {name for name, _ in places} == set(found["devices"]) and sum(layers for _, layers in places) == LAYERS
    assert agree(found["spread"], found["one"]) and found["spread"]["size"] == found["spread"]["size_vram"]


def test_num_gpu_says_how_many_layers(found):
    places = found["three layers"]["placement"]
    assert (
        sum(layers for name, layers in places if name != "CPU") == 3 and sum(layers for _, layers in places) == LAYERS
    )
    assert 0 < found["three layers"]["size_vram"] < found["three layers"]["size"]
    assert found["cpu"]["placement"] == [["CPU", LAYERS]] and found["cpu"]["size_vram"] == 0
    assert agree(found["three layers"], found["one"]) and agree(found["cpu"], found["one"])


def test_engines_that_share_a_device_answer_as_if_alone(found):
    alone = {name: found[f"only {index}"]["logprobs"] for index, name in enumerate(found["devices"])}
    for [[[name, layers]], answers] in found["together"]:
        assert layers == LAYERS and answers == [alone[name]] * 4
    used = [placement[0][0] for placement, _ in found["together"]]
    assert used[2] == used[3] == found["devices"][1]


def test_a_lost_device_is_opened_again_and_the_other_stays(found):
    assert found["open"] == sorted(found["devices"])
    assert found["after forgetting one"] == [name for name in found["devices"] if name != found["forgotten"]]
