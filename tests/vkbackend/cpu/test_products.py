"""Products by kernels of `vkbackend._cpu`: ggml's bits, whatever the number of rows and threads."""

import numpy as np
import pytest
from cpu_programs import require_ggml
from vulkan_drivers import impossible

from vkbackend.cpu import trial
from vkbackend.cpu.pool import Pool
from vkbackend.ops.packed import FORMATS, PackedMatrix

OWN = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q6_k"]
ROWS = [*range(1, 10), 16, 129]
WEIGHT_ROWS = 37  # not whole chunks of 16


def cpu_variants() -> tuple[str, ...]:
    """Variants of the kernels that this CPU can run and that have products."""
    try:
        from vkbackend import _cpu
    except ImportError:
        return ("avx2",)  # the test says what is missing
    return _cpu.VARIANTS[1:]


@pytest.fixture(params=cpu_variants())
def variant(request):
    require_ggml()
    from vkbackend import _cpu

    _cpu.choose_variant(request.param)
    yield request.param
    _cpu.choose_variant(_cpu.VARIANTS[-1])


def activations(rng: np.random.Generator, rows: int, k: int) -> np.ndarray:
    """Of all magnitudes, with blocks of zeros and values that are halfway between two codes."""
    x = rng.standard_normal((rows, k), np.float32) * np.exp(rng.uniform(-12, 12, (rows, 1))).astype(np.float32)
    x[rows // 2, : k // 2] = 0
    x[-1] = rng.integers(-254, 255, k) / 2
    x[-1, ::32] = 127
    return x


@pytest.mark.parametrize("name", OWN)
def test_products_have_the_bits_of_ggml(on_ggml, variant, name):
    """Rows of one block, of whole groups of blocks, and of a part of one."""
    ggml, rng = require_ggml(), np.random.default_rng(0)
    pools = [Pool(ggml, threads) for threads in (1, 3)]
    size = FORMATS[name].block_size
    for k in (size, 3 * size, 8 * size):
        weight = PackedMatrix.random(rng, name, WEIGHT_ROWS, k)
        for rows in ROWS:
            x = activations(rng, rows, k)
            wanted = trial._product(ggml, pools[0], weight, x)
            for pool in pools:
                found = trial._product(ggml, pool, weight, x, own=True)
                assert np.array_equal(found.view(np.int32), wanted.view(np.int32)), (k, rows)


def test_the_trial_names_the_formats_with_the_bits_of_ggml(on_ggml, monkeypatch, capsys):
    if not cpu_variants():
        impossible("this CPU has no kernels for products")
    assert trial.main() == 0
    assert set(capsys.readouterr().out.split()) == set(OWN)
    right = trial._product

    def planted(ggml, pool, weight, x, own=False):
        y = right(ggml, pool, weight, x, own)
        if own and weight.format.name == "q4_k":
            y[-1, -1] = np.nextafter(y[-1, -1], np.float32(np.inf))
        return y

    monkeypatch.setattr(trial, "_product", planted)
    assert trial.main() == 0
    assert set(capsys.readouterr().out.split()) == set(OWN) - {"q4_k"}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"weights": np.zeros((4, 143), np.uint8)}, "weights must be contiguous and have 576 elements"),
        ({"codes": np.zeros(8, np.uint8)}, "codes must be contiguous"),
        ({"k": 100}, "whole blocks"),
        ({"type": 99}, "no kernel for weights of type 99"),
    ],
)
def test_arguments_are_checked(on_ggml, change, said):
    from vkbackend import _cpu

    arguments = {
        "weights": np.zeros((4, 144), np.uint8),
        "type": 12,
        "codes": np.zeros(_cpu.num_code_bytes(12, 2, 256), np.uint8),
        "k": 256,
        "y": np.zeros((2, 4), np.float32),
    }
    with pytest.raises(ValueError, match=said):
        _cpu.product(**arguments | change)
