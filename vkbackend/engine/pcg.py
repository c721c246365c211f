"""Seeded random numbers, equal to those of Go's math/rand/v2, so that a seed gives the same draws as in Ollama.

Generator: PCG-DXSM with 128 bits of state (O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good
Algorithms", with the DXSM output of NumPy and Go). Streams of one seed: sequence seed, and seed xor 0x9E3779B9.
"""

import secrets

_MASK_64 = (1 << 64) - 1
_MASK_128 = (1 << 128) - 1
_MULTIPLIER = (2549297995355413924 << 64) | 4865540595714422341
_INCREMENT = (6364136223846793005 << 64) | 1442695040888963407
_OUTPUT_MULTIPLIER = 0xDA942042E4DD58B5
_STREAM = 0x9E3779B9


class RandomDraws:
    """Uniform random numbers. seed -1 takes a seed from the operating system."""

    def __init__(self, seed: int):
        seed = secrets.randbits(64) if seed == -1 else seed & _MASK_64
        self._state = (seed << 64) | (seed ^ _STREAM)

    def uint64(self) -> int:
        """The next 64 random bits."""
        self._state = (self._state * _MULTIPLIER + _INCREMENT) & _MASK_128
        high, low = self._state >> 64, self._state & _MASK_64
        high ^= high >> 32
        high = high * _OUTPUT_MULTIPLIER & _MASK_64
        high ^= high >> 48
        return high * (low | 1) & _MASK_64

    def float32(self) -> float:
        """A number in [0, 1): a multiple of 2^-24, which is exact in float32."""
        return (self.uint64() >> 32 & 0xFFFFFF) / (1 << 24)
