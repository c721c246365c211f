"""How much memory a model needs: bytes of each layer's weights and cache, from the file's header alone.

In: a `ModelFile`. Out: `Sizes`, whose `needs(layout)` is the input of the rules in `layout.py`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..gguf.quant_format import BLOCK
from ..gguf.quants import FORMATS
from ..gguf.reader import TensorInfo
from ..graph.cache_layout import CacheLayout
from ..graph.parts import BLOCK as BLOCK_NAME
from ..loading import ModelFile
from .layout import Layout, Needs


def packed_bytes(info: TensorInfo) -> int:
    """Size of a tensor on a device."""
    if len(info.shape) < 2 or info.type not in FORMATS:
        return info.num_bytes
    *stacked, num_columns = info.shape  # the rows of experts are one after the other
    kind = FORMATS[info.type]
    return kind.table_bytes + sum(kind.packed_shape(math.prod(stacked), -(-num_columns // BLOCK) * BLOCK))


@dataclass(frozen=True)
class Sizes:
    """Sizes in bytes. blocks, cache: weights and cache of each block. output: what follows the last block, which
    includes a tied embedding. embedding: what comes before the first block. is_tied: the output is the embedding.
    activations: intermediates of a step. logits: of a step.
    """

    blocks: tuple[int, ...]
    cache: tuple[int, ...]
    output: int
    embedding: int
    is_tied: bool
    activations: int
    logits: int

    @classmethod
    def of(
        cls,
        file: ModelFile,
        *,
        layout: CacheLayout,
        max_tokens: int,
        max_outputs: int,
    ) -> "Sizes":
        """layout: of the cache, with the pages that are wanted. max_tokens, max_outputs: of a step."""
        config = file.config
        blocks = [0] * config.num_layers
        output = embedding = 0
        for info in file.tensors:
            size, found = packed_bytes(info), BLOCK_NAME.match(info.name)
            if found:
                if int(found[1]) < config.num_layers:
                    blocks[int(found[1])] += size
            elif info.name.startswith("token_embd."):
                embedding += size
            else:
                output += size
        is_tied = "output.weight" not in file.gguf.tensors
        heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        per_token = 4 * config.width + 2 * heads + 3 * config.feed_forward + config.routed_elements
        activations = 4 * max_tokens * per_token
        return cls(
            tuple(blocks),
            tuple(layout.layer_bytes(layer) for layer in range(config.num_layers)),
            output + (embedding if is_tied else 0),
            embedding,
            is_tied,
            activations,
            4 * max_outputs * config.vocab_size,
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """Weights and cache of each layer, the output last."""
        return (*(weights + cache for weights, cache in zip(self.blocks, self.cache)), self.output)

    def needs(self, layout: Layout, keys: Iterable[tuple[str, str]]) -> Needs:
        """keys: of all devices that can be used."""
        last = len(self.blocks)
        graphs = dict.fromkeys(keys, 0)
        for part in layout:
            if part.layers:
                has_output = last in part.layers
                graphs[part.key] = self.activations + (self.logits if has_output else 0)
                if 0 in part.layers and not (has_output and self.is_tied):
                    graphs[part.key] += self.embedding
        placed = {layer for part in layout for layer in part.layers}
        # A tied embedding on the host already counts there as the output.
        on_host = 0 if 0 in placed or self.is_tied and last not in placed else self.embedding
        return Needs(self.layers, graphs, on_host, self.activations if len(placed) <= last else 0)
