"""What a step of a model has to do at the least, whatever its kernels do: bytes that must be moved, products that
must be computed.

In: a loaded model and the element type of its cache. Out: `Work`, from shapes alone.
"""

import numpy as np

from ..graph.cache import DTYPES, cache_bytes
from ..models.load import LoadedModel


class Work:
    """weights: of the matrix products of one token; weight_bytes: theirs, in the file's formats; output_weights: of
    the last product alone, which only the tokens that want logits take.
    """

    def __init__(self, model: LoadedModel, kv_type: str = "f16"):
        tensors, config = model.gguf.tensors, model.config
        output = "output.weight" if "output.weight" in tensors else "token_embd.weight"
        # An embedding is multiplied with only where it is the output's matrix too.
        matrices = [
            info
            for name, info in tensors.items()
            if len(info.shape) == 2 and (name == output or name != "token_embd.weight")
        ]
        self.weights = sum(int(np.prod(info.shape)) for info in matrices)
        self.output_weights = int(np.prod(tensors[output].shape))
        self.weight_bytes = sum(info.num_bytes for info in matrices)
        self._token_bytes = 2 * cache_bytes(
            (1, 1, config.num_kv_heads, config.head_dim), DTYPES[kv_type]
        )  # keys and values of one layer
        window = getattr(config, "window", 0)
        self._windows = [0 if not window or config.is_global(layer) else window for layer in range(config.num_layers)]

    def cache_bytes(self, context: int) -> int:
        """Of the keys and values that one token looks at, where `context` are stored."""
        return sum(self._token_bytes * (min(context, window) if window else context) for window in self._windows)

    def decode_bytes(self, batch: int, context: int) -> int:
        """A step of `batch` sequences: every weight once, and each sequence's own cache."""
        return self.weight_bytes + batch * self.cache_bytes(context)

    def decode_flops(self, batch: int) -> int:
        return 2 * batch * self.weights

    def prefill_bytes(self, tokens: int, chunk: int) -> int:
        """Every weight once for each `chunk` tokens, and the cache written."""
        return self.weight_bytes * -(-tokens // chunk) + self._token_bytes * len(self._windows) * tokens

    def prefill_flops(self, tokens: int) -> int:
        """Of the products; the last one is computed for one token."""
        return 2 * (tokens * (self.weights - self.output_weights) + self.output_weights)
