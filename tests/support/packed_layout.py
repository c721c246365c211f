"""The packed layout of shaders/quant/README.md, read block by block: a second, slow opinion next to the shaders'."""

from collections.abc import Callable

import numpy as np

from vkbackend.gguf.blocks import IQ4_VALUES
from vkbackend.gguf.formats.mxfp4 import VALUES as MXFP4_VALUES
from vkbackend.gguf.quant_format import QuantFormat

HIGH, WORD, BYTE = (each.reshape(-1).astype(np.uint32) for each in np.indices((2, 4, 4)))  # of element 16h + 4w + c
EIGHT, HALF, LANE = (each.reshape(-1).astype(np.uint32) for each in np.indices((4, 2, 4)))  # of element 8n + 4u + c


class Block:
    """Block `number` of a row: 32 elements."""

    def __init__(
        self, kind: QuantFormat, quants: np.ndarray, scales: np.ndarray, num_blocks: int, row: int, number: int
    ):
        self._kind = kind
        self._quants = quants.view(np.uint32).reshape(-1, 4)
        self._scales = scales.view(np.uint32)
        self._num_blocks = num_blocks
        self._group, self._row = divmod(row, 64)
        self.number = number

    def vectors(self, count: int) -> np.ndarray:
        """The block's `count` vectors of four words in the plane of codes."""
        first = (self._group * self._num_blocks + self.number) * count
        return np.concatenate([self._quants[(first + at) * 64 + self._row] for at in range(count)])

    def half_vector(self) -> np.ndarray:
        """The block's two words, of a vector that two blocks share."""
        vector = self._quants[(self._group * (self._num_blocks // 2) + self.number // 2) * 64 + self._row]
        return vector[self.number % 2 * 2 :][:2]

    def scale(self, word: int = 0) -> np.uint32:
        """A word of the block's record in the plane of scales."""
        num_records = -(-self._num_blocks * 32 // self._kind.record)
        record = self._group * num_records + self.number * 32 // self._kind.record
        return self._scales[(record * self._kind.scale_words + word) * 64 + self._row]

    def nibbles(self) -> np.ndarray:
        codes = self.vectors(1).view(np.uint8)
        return np.concatenate([codes & 15, codes >> 4]).astype(np.uint32)

    def pairs(self) -> np.ndarray:
        return self.half_vector()[HALF] >> (8 * LANE + 2 * EIGHT) & 3

    def scale_bytes(self) -> np.ndarray:
        """The block's two bytes of those that a record of 256 elements has from word 1 on."""
        return np.array(
            [self.scale(1 + self.number % 8 // 2) >> 16 * (self.number & 1) + 8 * at & 255 for at in (0, 1)]
        )


def half(word: np.uint32, which: int) -> np.float32:
    return np.uint16(word >> 16 * which & 0xFFFF).view(np.float16).astype(np.float32)


def fifth_bits(word: np.uint32) -> np.ndarray:
    return (word >> (4 * (2 * BYTE + HIGH) + WORD) & 1) << 4


def signed(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint8).view(np.int8).astype(np.float32)


def q2_k(block: Block) -> np.ndarray:
    both, d = block.scale_bytes(), block.scale()
    scales, offsets = half(d, 0) * (both & 15).astype(np.float32), half(d, 1) * (both >> 4).astype(np.float32)
    return block.pairs().astype(np.float32) * np.repeat(scales, 16) - np.repeat(offsets, 16)


def q3_k(block: Block) -> np.ndarray:
    codes = block.pairs() | (block.scale(5 + block.number % 8) >> (8 * LANE + 2 * EIGHT + HALF) & 1) << 2
    return (codes.astype(np.float32) - 4) * (half(block.scale(), 0) * np.repeat(signed(block.scale_bytes()), 16))


def q4_1(block: Block) -> np.ndarray:
    return block.nibbles().astype(np.float32) * half(block.scale(), 0) + half(block.scale(), 1)


def q5_0(block: Block) -> np.ndarray:
    codes = block.nibbles() | fifth_bits(block.scale(block.number & 1))
    return (codes.astype(np.float32) - 16) * half(block.scale(2), block.number & 1)


def q5_1(block: Block) -> np.ndarray:
    codes = block.nibbles() | fifth_bits(block.scale())
    return codes.astype(np.float32) * half(block.scale(1), 0) + half(block.scale(1), 1)


def q4_k(block: Block) -> np.ndarray:
    return k_values(block, block.nibbles())


def q5_k(block: Block) -> np.ndarray:
    return k_values(block, block.nibbles() | fifth_bits(block.scale(5 + block.number % 8)))


def k_values(block: Block, codes: np.ndarray) -> np.ndarray:
    scale, offset = block.scale_bytes().astype(np.float32)
    return codes.astype(np.float32) * (half(block.scale(), 0) * scale) - half(block.scale(), 1) * offset


def q6_k(block: Block) -> np.ndarray:
    number = block.number % 8
    words = np.where(WORD < 2, block.scale(5 + 2 * number), block.scale(6 + 2 * number))
    codes = block.nibbles() | (words >> (4 * (2 * BYTE + HIGH) + 2 * (WORD % 2)) & 3) << 4
    places = (2 * number, 2 * number + 1)
    scales = signed(np.array([block.scale(1 + at // 4) >> 8 * (at % 4) & 255 for at in places]))
    return (codes.astype(np.float32) - 32) * (half(block.scale(), 0) * np.repeat(scales, 16))


def mxfp4(block: Block) -> np.ndarray:
    exponent = int(block.scale() >> 8 * (block.number % 4) & 255)
    return MXFP4_VALUES[block.nibbles()] * np.float32(2.0 ** (exponent - 128))


def iq4_xs(block: Block) -> np.ndarray:
    number = block.number % 8
    low, high = block.scale(1) >> 4 * number & 15, block.scale() >> 16 + 2 * number & 3
    return IQ4_VALUES[block.nibbles()] * (half(block.scale(), 0) * np.float32(int(low | high << 4) - 32))


# How each format's block is read. A format that is not here is checked by its shader alone.
LAYOUTS: dict[str, Callable[[Block], np.ndarray]] = {
    "f32": lambda block: block.vectors(8).view(np.float32),
    "f16": lambda block: block.vectors(4).view(np.float16).astype(np.float32),
    "bf16": lambda block: (block.vectors(4).view(np.uint16).astype(np.uint32) << 16).view(np.float32),
    "q8_0": lambda block: (
        (block.vectors(2).view(np.uint8).astype(np.float32) - 128) * half(block.scale(), block.number & 1)
    ),
    "q4_0": lambda block: (block.nibbles().astype(np.float32) - 8) * half(block.scale(), block.number & 1),
    "q4_1": q4_1,
    "q5_0": q5_0,
    "q5_1": q5_1,
    "q2_k": q2_k,
    "q3_k": q3_k,
    "q4_k": q4_k,
    "q5_k": q5_k,
    "q6_k": q6_k,
    "mxfp4": mxfp4,
    "iq4_nl": lambda block: IQ4_VALUES[block.nibbles()] * half(block.scale(), block.number & 1),
    "iq4_xs": iq4_xs,
}


def unpacked(kind: QuantFormat, quants: np.ndarray, scales: np.ndarray, num_rows: int, k: int) -> np.ndarray:
    """The elements of both planes, f32 (num_rows, k)."""
    y = np.empty((num_rows, k), np.float32)
    for row in range(num_rows):
        for number in range(k // 32):
            block = Block(kind, quants, scales, k // 32, row, number)
            y[row, 32 * number : 32 * number + 32] = LAYOUTS[kind.name](block)
    return y
