"""Runs a model's steps: `DeviceExecutor` on Vulkan, `NumpyExecutor` on the twins. Both: `run(StepInputs) -> list[RowOutput]`.

A step of n tokens runs in the plan of the next bucket (1, 2, 4, ... token slots); unused slots have position -1. A plan is
made once per bucket: the model is called on symbolic values, the activations get places, the dispatches are recorded, and from
then on only the step buffer changes.
"""

from dataclasses import dataclass

import numpy as np

from ..device.buffers import Arena
from ..device.dispatch import Program
from ..errors import DeviceError
from ..ops.op import TensorView
from .builder import Graph, Kind, Value
from .cache import CacheStorage
from .planner import plan_arena
from .step import RowOutput, StepInputs, bucket

STEP_ARRAYS = ("tokens", "positions", "sequences", "page_table", "output_rows")


@dataclass
class CacheValues:
    """Hands the cache of each layer to the model as values of a graph."""

    storage: CacheStorage

    def cache(self, graph: Graph, layer: int) -> tuple[Value, Value]:
        return tuple(graph.constant(tensor, tensor.shape, Kind.STATE, tensor.dtype) for tensor in self.storage.layers[layer])
