"""`vkbackend.check` on the first Vulkan device; the program that tests start on each driver.

In: part of an op's name, or nothing for all ops. Out: one line of JSON: device, seconds, every result.
"""

import json
import sys
import time

from vkbackend.check import check
from vkbackend.device.choosing import choose
from vkbackend.device.context import Device
from vkbackend.device.discover import list_devices
from vkbackend.device.shaders import variants

device = Device(choose(list_devices()).device)
begin = time.perf_counter()
results = [
    {
        "op": found.op,
        "case": found.case,
        "kernel": found.kernel,
        "worst": found.worst,
        "error": found.error,
        "passed": found.passed,
    }
    for found in check(device, sys.argv[1] if len(sys.argv) > 1 else "")
]
device.kernels.save()
print(
    json.dumps(
        {
            "device": device.info.name,
            "flavors": device.info.flavors,
            "missing": [name for name in variants() if device.kernels.missing(name)],
            "subgroup_sizes": device.info.subgroup_sizes,
            "seconds": time.perf_counter() - begin,
            "results": results,
        }
    )
)
