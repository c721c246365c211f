"""NVFP4: 64 codes of 4 bits (E2M1 floats), a float of 8 bits (E4M3 without sign) for every 16. Devices hold it as F16,
which has all its values.
"""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import looked_up, nibbles, words
from ..quant_format import BLOCK, Planes, QuantFormat, Unpacked
from .mxfp4 import VALUES

# Half of each E4M3 number, since VALUES are twice those of the codes. 0x7F is not a number and counts as 0, as in ggml.
_BYTES = np.arange(256)
_EXPONENTS, _MANTISSAS = _BYTES >> 3 & 15, _BYTES & 7
SCALES = np.where(_EXPONENTS == 0, _MANTISSAS / 8, 1 + _MANTISSAS / 8) * 2.0 ** (np.maximum(_EXPONENTS, 1) - 8)
SCALES[0x7F] = 0
SCALES = SCALES.astype(np.float32)


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 36) -> halves (rows, blocks, 32) uint32.

    A block: four scales, 32 bytes of two codes each, 8 for every 16 elements.
    """
    codes, scales, _ = unpack(blocks.reshape(-1, 36))
    assert scales is not None, "this format has scales"
    values = codes.reshape(-1, 4, 16) * scales[..., None]
    return words(values.astype(np.float16).reshape(*blocks.shape[:2], 64).view(np.uint8)), None


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 36) -> codes -12 ... 12 (n, 64) and scales (n, 4)."""
    return looked_up(VALUES, nibbles(blocks, 4, 8)), SCALES[blocks[:, :4]], None


def put_scales(blocks: np.ndarray, scales: np.ndarray) -> None:
    """Give blocks (..., 36) scales of about the magnitudes of `scales`, and less than twice these."""
    exponents = np.clip(np.floor(np.log2(np.maximum(np.abs(scales), 1e-30))) + 8, 0, 14).astype(np.uint8)
    blocks[..., :4] = exponents[..., None] << 3 | blocks[..., :4] & 7


FORMAT = QuantFormat(
    GGMLQuantizationType.NVFP4,
    split,
    unpack,
    quant_words=16,
    scale_words=0,
    record=BLOCK,
    put_scales=put_scales,
    largest_code=24,
    shader="f16",
)
