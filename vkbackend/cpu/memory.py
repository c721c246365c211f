"""Memory for the activations of an executor's programs, which run one at a time and share it."""

import math

import numpy as np

ALIGNMENT = 256


class Memory:
    """Named blocks of bytes. A block that is too small for a request is replaced by a larger one, and `version` counts
    how often that happened: earlier arrays stay valid, but their memory is no longer shared.
    """

    def __init__(self) -> None:
        self.version = 0
        self._blocks: dict[str, np.ndarray] = {}

    def array(self, name: str, offset: int, num_bytes: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """The array at `offset` of the block `name`, which has room for at least `num_bytes`."""
        block = self._blocks.get(name)
        if block is None or len(block) < num_bytes:
            if block is not None:
                self.version += 1
            room = np.empty(num_bytes + num_bytes // 4 + ALIGNMENT, np.uint8)  # the system provides pages on first use
            block = self._blocks[name] = room[-room.ctypes.data % ALIGNMENT :]
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return block[offset : offset + size].view(dtype).reshape(shape)

    @property
    def num_bytes(self) -> int:
        return sum(block.nbytes for block in self._blocks.values())
