"""What a model takes: bytes of each layer's weights and cache, known from the file's header before anything is
loaded.

In: a GGUF file and its config. Out: `Sizes`, from which `needs(layout)` gives what the rules of
`placement/layout.py` ask for.
"""

from dataclasses import dataclass

from ..gguf.quants import FORMATS
from ..graph.parts import BLOCK
from ..models.weights import loaded_tensors
from .layout import Layout, Needs

CACHE_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 1.0, "q4_0": 0.5}  # bytes per element, without the scales of blocks


def packed_bytes(info) -> int:
    """What a tensor takes on a device."""
    if len(info.shape) != 2 or info.type not in FORMATS:
        return info.num_bytes
    return sum(FORMATS[info.type].packed_shape(*info.shape))


@dataclass(frozen=True)
class Sizes:
    """Bytes. blocks: weights of each; cache: of one layer; output: of what follows the last block; embedding: of
    what comes before the first. is_tied: the output is the embedding. activations: of a step's intermediates;
    logits: of a step's rows of them.
    """

    blocks: tuple[int, ...]
    cache: int
    output: int
    embedding: int
    is_tied: bool
    activations: int
    logits: int

    @classmethod
    def of(cls, gguf, config, *, cache_tokens: int, cache_bytes: float, max_tokens: int, max_outputs: int) -> "Sizes":
        """cache_tokens: of all sequences together; cache_bytes: of an element. max_tokens, max_outputs: of a step."""
        blocks, output, embedding = [0] * config.num_layers, 0, 0
        for name, info in loaded_tensors(gguf).items():
            size, found = packed_bytes(info), BLOCK.match(name)
            if found:
                if int(found[1]) < config.num_layers:
                    blocks[int(found[1])] += size
            elif name.startswith("token_embd."):
                embedding += size
            else:
                output += size
        is_tied = "output.weight" not in gguf.tensors
        heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        activations = 4 * max_tokens * (4 * config.width + 2 * heads + 3 * config.feed_forward)
        return cls(
            tuple(blocks),
            int(2 * cache_tokens * config.num_kv_heads * config.head_dim * cache_bytes),
            output + (embedding if is_tied else 0),
            embedding,
            is_tied,
            activations,
            4 * max_outputs * config.vocab_size,
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """Of weights and cache, the output last."""
        return (*(weights + self.cache for weights in self.blocks), self.output)

    def needs(self, layout: Layout, keys) -> Needs:
        """keys: of all devices that may be used."""
        last, graphs = len(self.blocks), dict.fromkeys(keys, 0)
        for part in layout:
            if part.layers:
                has_output = last in part.layers
                graphs[part.key] = self.activations + (self.logits if has_output else 0)
                if 0 in part.layers and not (has_output and self.is_tied):
                    graphs[part.key] += self.embedding
        placed = {layer for part in layout for layer in part.layers}
        on_host = (
            0 if 0 in placed or self.is_tied and last not in placed else self.embedding
        )  # counted once where it is the output as well
        return Needs(self.layers, graphs, on_host, self.activations if len(placed) <= last else 0)
