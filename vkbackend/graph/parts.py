"""Parts of a model: consecutive layers in one place, the CPU or a device."""

import re
from dataclasses import dataclass

from ..device.context import Device
from .builder import Graph, Kind, Value
from .model import Caches, LayeredModel, Norm

HIDDEN = "hidden"  # the hidden states that one part hands to the next
BLOCK = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class LayerSpan:
    """Layers first ... last - 1 of a model with num_blocks blocks; layer number num_blocks is the output.

    is_tied: the output weight is the embedding.
    """

    first: int
    last: int
    num_blocks: int
    is_tied: bool

    @property
    def has_input(self) -> bool:
        """Whether the span begins with the embedding."""
        return self.first == 0

    @property
    def has_output(self) -> bool:
        """Whether the span ends with the logits."""
        return self.last > self.num_blocks

    @property
    def blocks(self) -> range:
        """Numbers of the blocks in the span, without the output layer."""
        return range(self.first, min(self.last, self.num_blocks))

    def holds(self, name: str) -> bool:
        """Whether these layers need the tensor `name`. Tensors outside of blocks, input and output, such as rotary
        frequencies, are needed by every span.
        """
        block = BLOCK.match(name)
        if block:
            return int(block[1]) in self.blocks
        if name.startswith("position_embd."):
            return self.has_input
        if name.startswith("token_embd."):
            return self.has_input or self.has_output and self.is_tied
        return self.has_output or not name.startswith(("output.", "output_norm."))


@dataclass
class LoadedPart:
    """Some layers of a model, loaded in one place.

    device: None for the CPU. layers: the whole model, of which only the layers of `span` have their weights in this
    place. num_bytes: memory that they take there.
    """

    span: LayerSpan
    device: Device | None
    layers: LayeredModel
    num_bytes: int


@dataclass
class PartModel:
    """The layers of one span, as a model for an executor.

    Unless the span begins with the embedding, the incoming hidden states are an input of its graph. Unless it ends
    with the logits, the outgoing ones are the graph's only result.
    """

    layers: LayeredModel
    span: LayerSpan
    width: int

    def __call__(self, graph: Graph, caches: Caches) -> Value:
        span = self.span
        x = self.layers.embed(graph) if span.has_input else graph.input(HIDDEN, (graph.num_tokens, self.width))
        for number in span.blocks:
            with graph.scope(f"blk.{number}"):
                x = self.layers.blocks[number](x, caches)
        if not span.has_output:
            out = graph.new(HIDDEN, x.shape, kind=Kind.RESULT)
            graph.call("scale", [x], [out], factor=1.0)
            graph.results = [out]
        return x

    def logits(self, x: Value) -> Value:
        """Hidden states (M, width) -> logits (M, vocabulary). The span must end with the logits."""
        return self.layers.logits(x)

    @property
    def output_norm(self) -> Norm:
        """The norm before the logits."""
        return self.layers.output_norm
