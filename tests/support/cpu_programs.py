"""Single ops on the CPU path of ggml."""

import importlib.util

import numpy as np
from vulkan_drivers import missing

from vkbackend.graph.builder import Graph, Kind, Node, Value
from vkbackend.graph.cache import CacheTensor
from vkbackend.graph.step import StepShape
from vkbackend.graph.vector import Vector
from vkbackend.ops.op import Case, Op
from vkbackend.ops.packed import PackedMatrix
from vkbackend.ops.q8_cache import Q8Cache


def require_ggml() -> object:
    """The library; without it the test is skipped, in CI it fails."""
    from vkbackend.cpu.library import ggml

    if importlib.util.find_spec("ggml") is None or importlib.util.find_spec("vkbackend._cpu") is None:
        missing("ggml is not installed (scripts/setup.sh builds it)")
    library = ggml()
    assert library is not None, "ggml does not work here"
    return library


def value_of(graph: Graph, name: str, argument: object) -> Value | None:
    """A value for an argument of a case: caches, weights and vectors are constants, other arrays inputs."""
    if argument is None:
        return None
    if isinstance(argument, PackedMatrix):
        return graph.constant(argument)
    if isinstance(argument, Q8Cache) or argument.ndim == 4:
        dtype = argument.dtype if isinstance(argument, Q8Cache) else argument.dtype.name
        return graph.constant(CacheTensor(name, argument.shape, dtype, array=argument.copy()))
    if argument.dtype == np.int32:
        return Value(graph, name, argument.shape, "int32", Kind.STEP)
    if argument.ndim == 1:
        return graph.constant(Vector(name, argument))
    return graph.input(name, argument.shape)


def run_case(op: Op, case: Case, num_threads: int) -> list[np.ndarray]:
    """The outputs of an op on ggml's path, those in a cache included."""
    from vkbackend.cpu.library import own_products
    from vkbackend.cpu.lowering import lower
    from vkbackend.cpu.memory import Memory
    from vkbackend.cpu.pool import Pool
    from vkbackend.cpu.program import Program

    library = require_ggml()
    arguments = case.make(np.random.default_rng(0))
    graph = Graph(StepShape(1, 0), (1, 1))
    inputs = [value_of(graph, f"input{at}", argument) for at, argument in enumerate(arguments)]
    outputs = [
        inputs[op.in_place[at]] if at in op.in_place else graph.new(f"output{at}", shape, dtype)
        for at, (shape, dtype) in enumerate(output_shapes(op, case))
    ]
    graph.nodes.append(Node(op.name, op, inputs, outputs, dict(case.attrs)))
    program = Program(library, Pool(library, num_threads), graph, Memory(), keep=True, own_products=own_products())
    lower(program)
    kinds = (Kind.STEP, Kind.ACTIVATION)
    read = program.run({value: array for value, array in zip(inputs, arguments) if value and value.kind in kinds})
    return [
        np.asarray(value.constant.array, np.float32) if isinstance(value.constant, CacheTensor) else read(value).copy()
        for value in outputs
    ]


def output_shapes(op: Op, case: Case) -> list[tuple[tuple[int, ...], str]]:
    """Shapes and dtypes of what the numpy reference returns."""
    return [(tuple(result.shape), str(result.dtype)) for result in reference_outputs(op, case)]


def reference_outputs(op: Op, case: Case) -> list:
    """What the numpy reference returns, as arrays; caches as float32."""
    results = op.reference(*case.make(np.random.default_rng(0)), **case.attrs)
    results = results if isinstance(results, tuple) else (results,)
    return [
        result if isinstance(result, np.ndarray) and result.dtype != np.float16 else np.asarray(result, np.float32)
        for result in results
    ]
