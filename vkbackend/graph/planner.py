"""Places activations in one arena. Two of them share memory only if their lifetimes do not overlap.

In: the nodes of a graph. Out: the offset of each base value and the size of the arena, in bytes. Values are placed
first fit, in the order they are made: a step has few and large activations, so this is good enough.
"""

from dataclasses import dataclass

from .builder import Graph, Kind, Value

ALIGNMENT = 256  # the largest minStorageBufferOffsetAlignment that Vulkan allows


@dataclass
class ArenaPlan:
    """Where activations are in an arena, and how large the arena is."""

    offsets: dict[Value, int]  # base value -> byte offset
    num_bytes: int


def storage_bytes(value: Value) -> int:
    """Size of a whole value, in bytes. Every element type of activations and results has 4 bytes."""
    return -(-value.shape[0] * value.row_stride * 4 // ALIGNMENT) * ALIGNMENT


def plan_arena(graph: Graph, keep: bool = False) -> ArenaPlan:
    """Place the activations of `graph`. With `keep`, no memory is reused, so every intermediate can be read after the
    step.
    """
    lasting = {value.base for value in graph.lasting}
    # The host writes inputs before the step.
    first = dict.fromkeys(graph.inputs.values(), 0)
    last = dict.fromkeys(graph.inputs.values(), 0)
    for index, node in enumerate(graph.nodes):
        for value in [*node.inputs, *node.outputs]:
            if value is not None and value.base.kind is Kind.ACTIVATION:
                first.setdefault(value.base, index)
                last[value.base] = len(graph.nodes) if keep or value.base in lasting else index

    offsets: dict[Value, int] = {}
    end = 0
    for value in first:  # in the order they are made
        size = storage_bytes(value)
        taken = sorted(
            (offsets[other], offsets[other] + storage_bytes(other))
            for other in offsets
            if first[other] <= last[value] and first[value] <= last[other]
        )
        offset = 0
        for low, high in taken:
            if offset + size <= low:
                break
            offset = max(offset, high)
        offsets[value] = offset
        end = max(end, offset + size)
    return ArenaPlan(offsets, end)
