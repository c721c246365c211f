"""Formats against gguf's dequantization, and the layout of packed weights."""

import gguf
import numpy as np
import pytest
from packed_layout import LAYOUTS, unpacked
from starter_models import FILES as STARTER_MODELS
from starter_models import model_path

from vkbackend.gguf.quants import FORMATS as BY_TYPE
from vkbackend.gguf.reader import GGUFFile
from vkbackend.ops.packed import FORMATS, PackedMatrix


@pytest.mark.parametrize("name", STARTER_MODELS)
def test_real_tensors_pack_and_dequantize(name):
    """Some rows of one tensor of each format in a real file: the values are gguf's, and packing loses no byte."""
    opened, seen = GGUFFile.open(model_path(name)), set()
    for info in opened.tensors.values():
        if info.type in seen or len(info.shape) != 2:
            continue
        seen.add(info.type)
        kind = BY_TYPE[info.type]
        raw = opened.data(info.name).reshape(info.shape[0], -1)[:11]
        np.testing.assert_array_equal(kind.dequantize(raw), gguf.quants.dequantize(raw, info.type))
        np.testing.assert_array_equal(
            unpacked(kind, *packed(kind, raw, info.shape[1]), 11, info.shape[1]), kind.dequantize(raw)
        )
    assert seen


def packed(kind, raw, k):
    quants, scales = (np.full(size, 0xA5, np.uint8) for size in kind.packed_shape(len(raw), k))
    kind.pack(raw, quants, scales)
    return quants, scales


@pytest.mark.parametrize("name", LAYOUTS)
def test_packed_layout_holds_every_bit(name):
    """With an odd number of rows and, for small blocks, of blocks. The rows that fill up the last group are zero."""
    kind = FORMATS[name]
    k = 512 if kind.block_size == 256 else 96
    matrix = PackedMatrix.random(np.random.default_rng(3), name, 77, k)
    np.testing.assert_array_equal(matrix.array(), gguf.quants.dequantize(matrix.raws[0], kind.type))
    quants, scales = packed(kind, matrix.raws[0], k)
    np.testing.assert_array_equal(unpacked(kind, quants, scales, 77, k), matrix.array())
    filled = PackedMatrix(
        name, (128, k), kind, [np.concatenate([matrix.raws[0], np.zeros((51, matrix.raws[0].shape[1]), np.uint8)])]
    )
    np.testing.assert_array_equal(unpacked(kind, quants, scales, 128, k), filled.array())


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "q1_0"])
def test_any_bytes_dequantize_to_the_bits_of_gguf(name):
    """Every code, index and scale, NaN among them."""
    kind = FORMATS[name]
    raw = np.random.default_rng(9).integers(0, 256, (64, 20 * kind.type_size), np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        found, expected = kind.dequantize(raw), gguf.quants.dequantize(raw, kind.type)
    np.testing.assert_array_equal(found, expected)
    is_number = ~np.isnan(expected)
    np.testing.assert_array_equal(found.view(np.uint32)[is_number], expected.view(np.uint32)[is_number])


def test_bits_of_q1_0_are_signs():
    """Which gguf does not dequantize."""
    raw = PackedMatrix.random(np.random.default_rng(9), "q1_0", 3, 256).raws[0].reshape(-1, 18)
    signs = np.where(np.unpackbits(raw[:, 2:], axis=1, bitorder="little"), np.float32(1), np.float32(-1))
    scales = np.ascontiguousarray(raw[:, :2]).view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(FORMATS["q1_0"].dequantize(raw), scales * signs)


@pytest.mark.parametrize("name", [name for name, kind in FORMATS.items() if kind.block_size == 32])
def test_random_weights_are_of_the_same_size_in_every_format(name):
    largest = np.abs(PackedMatrix.random(np.random.default_rng(0), name, 256, 256, size=0.05).array()).max()
    least = 0.025 if name == "mxfp4" else 0.045  # its scales are powers of two
    assert least < largest <= 0.05


def gguf_quantizes(name: str) -> bool:
    kind = FORMATS[name]
    try:
        gguf.quants.quantize(np.zeros((1, kind.block_size), np.float32), kind.type)
    except NotImplementedError:
        return False
    return True


@pytest.mark.parametrize("name", [name for name in FORMATS if gguf_quantizes(name)])
def test_formats_of_ggufs_own_quantization(name):
    """For values quantized by gguf instead of random bytes, the round trip stays within the format's step."""
    x = np.random.default_rng(1).standard_normal((5, max(64, FORMATS[name].block_size)), np.float32)
    raw = gguf.quants.quantize(x, FORMATS[name].type)
    np.testing.assert_array_equal(
        FORMATS[name].dequantize(raw.view(np.uint8)), gguf.quants.dequantize(raw, FORMATS[name].type)
    )
    step = np.abs(x).max() if name.startswith("tq") else 1.0  # -1, 0 and 1 times the largest
    assert np.abs(FORMATS[name].dequantize(raw.view(np.uint8)) - x).max() < 0.51 * step
