"""A step that is given up while the device still runs it, and everything that it used let go of; the program that
tests watch with a layer.

In: about how many seconds the step takes. Out: one line of JSON: seconds until the step was given up, and until all
was let go of.
"""

import json
import sys
import time

import numpy as np

from vkbackend.device.buffers import Arena
from vkbackend.device.choosing import choose
from vkbackend.device.context import Device
from vkbackend.device.discover import list_devices
from vkbackend.device.dispatch import Dispatch, Program
from vkbackend.device.shaders import compile_glsl
from vkbackend.errors import DeviceLost

SLOW = """
#version 450
layout(local_size_x = 64) in;
layout(std430, binding = 0) readonly buffer X { float x[]; };
layout(std430, binding = 1) writeonly buffer Y { float y[]; };
layout(push_constant) uniform Push { uint repeat; };
void main() {
    float v = x[gl_GlobalInvocationID.x];
    for (uint k = 0u; k < repeat; k++) v = v * 0.5 + 1.0;
    y[gl_GlobalInvocationID.x] = v;
}"""
VALUES = 1 << 14


def program(device, repeat: int) -> Program:
    x, y = (Arena(device, "device", 4 * VALUES).allocate(4 * VALUES) for _ in range(2))
    device.upload(x, np.zeros(VALUES, np.float32))
    return Program(device, [Dispatch("slow", (x,), (y,), (VALUES // 64, 1, 1), push={"repeat": repeat})])


def main():
    device = Device(choose(list_devices()).device)
    device.kernels.add("slow", compile_glsl(SLOW))
    trial = program(device, 100_000)
    trial.run()
    begin = time.perf_counter()
    trial.run()
    took = time.perf_counter() - begin

    long = program(device, int(100_000 * float(sys.argv[1]) / took))
    begin = time.perf_counter()
    try:
        long._recording.run(limit_ns=20_000_000)
        raise SystemExit("the step was not given up")
    except DeviceLost:
        given_up = time.perf_counter() - begin
    del long, trial
    device.close()
    del device
    print(json.dumps({"given_up": given_up, "let_go": time.perf_counter() - begin}))


if __name__ == "__main__":
    main()
