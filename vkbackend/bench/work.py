"""Lower bounds on the work of a step: the bytes it must move and the operations it must compute.

In: a loaded model and the element type of its cache. Out: `Work`, derived from shapes alone.
"""

import numpy as np

from ..graph.cache_layout import DTYPES
from ..loading import LoadedLayers
from ..ops.q8_cache import cache_bytes


class Work:
    """The least work of steps of one model.

    weights: number of weights in the matrix products of one token
    weight_bytes: their size in the file's formats
    output_weights: number of weights of the last product, which only tokens with logits need
    """

    def __init__(self, model: LoadedLayers, kv_type: str = "f16"):
        tensors = model.gguf.tensors
        config = model.config
        output = "output.weight" if "output.weight" in tensors else "token_embd.weight"
        # The embedding is a factor of a product only if it is also the output matrix.
        matrices = [
            info
            for name, info in tensors.items()
            if len(info.shape) == 2 and (name == output or name != "token_embd.weight")
        ]
        self.weights = sum(int(np.prod(info.shape)) for info in matrices)
        self.output_weights = int(np.prod(tensors[output].shape))
        self.weight_bytes = sum(info.num_bytes for info in matrices)
        # Keys and values of one token in one layer:
        self._token_bytes = 2 * cache_bytes((1, 1, config.num_kv_heads, config.head_dim), DTYPES[kv_type])
        self._windows = [config.window_of(layer) for layer in range(config.num_layers)]

    def cache_bytes(self, context: int) -> int:
        """Bytes of K and V that one token reads at this context length."""
        return sum(self._token_bytes * (min(context, window) if window else context) for window in self._windows)

    def decode_bytes(self, batch: int, context: int) -> int:
        """Bytes of a decode step of `batch` sequences: every weight once, and each sequence's cache."""
        return self.weight_bytes + batch * self.cache_bytes(context)

    def decode_flops(self, batch: int) -> int:
        """Operations of the matrix products of a decode step."""
        return 2 * batch * self.weights

    def prefill_bytes(self, tokens: int, chunk: int) -> int:
        """Bytes of a prefill: every weight once per chunk, and the cache once."""
        return self.weight_bytes * -(-tokens // chunk) + self._token_bytes * len(self._windows) * tokens

    def prefill_flops(self, tokens: int) -> int:
        """Operations of the matrix products of a prefill; the last product is computed for one token."""
        return 2 * (tokens * (self.weights - self.output_weights) + self.output_weights)
