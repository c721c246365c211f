"""Any compute shader on numpy arrays: for people who write one.

    y, = run_shader(device, glsl, inputs=[x], outputs=[(x.shape, "float32")], groups=(4, 1, 1))
"""

import hashlib

import numpy as np

from .buffers import Arena
from .dispatch import Dispatch, Program
from .shaders import compile_glsl


def run_shader(device, glsl: str, *, inputs=(), outputs=(), groups=(1, 1, 1), push=(), constants=None, target: str = "vulkan1.1",
               subgroup_size: int = 0) -> list[np.ndarray]:
    """Compile `glsl` and run it once.

    inputs: arrays, bound as storage buffers 0, 1, ...; outputs: (shape, dtype) each, bound after them and zero before the run;
    groups: workgroups in x, y, z; push: push constants in order (int -> uint, float -> float); constants: {constant_id: value};
    subgroup_size: a required size, 0 for any.
    Returns the outputs. Raises DeviceError with the compiler's message, or where the device refuses.
    """
    name = "run_shader-" + hashlib.sha256((target + glsl).encode()).hexdigest()[:16]
    device.kernels.add(name, compile_glsl(glsl, target))
    arena = Arena(device, "device", 1 << 20)

    def place(array):
        buffer = arena.allocate(max(array.nbytes, 16))
        device.upload(buffer, array)
        return buffer

    reads = tuple(place(np.ascontiguousarray(array)) for array in inputs)
    writes = tuple(place(np.zeros(shape, dtype)) for shape, dtype in outputs)
    Program(device, [Dispatch(name, reads, writes, tuple(groups), tuple((constants or {}).items()), tuple(push), subgroup_size)]).run()
    return [device.download(buffer, dtype, shape) for buffer, (shape, dtype) in zip(writes, outputs)]
