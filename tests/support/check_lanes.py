"""Check the `subgroup` kernels at the driver's own lanes, the device taken for an integrated GPU; a program.

    python check_lanes.py [OP...]       prints {"lanes": 64, "cases": 96, "failed": [...]}

An integrated GPU gets the kernels that real GPUs run: the `subgroup` flavor, products cut into slices of K. Without
names, every op is checked: the large ones (LARGE) with their first case only, as all of their cases take minutes.
"""

import json
import sys
from dataclasses import replace

from vkbackend import check
from vkbackend.device.choosing import choose
from vkbackend.device.context import Device
from vkbackend.device.device_info import DeviceType
from vkbackend.device.discover import list_devices
from vkbackend.ops import OPS

LARGE = ("attention", "decode_attention", "matmul")


def main() -> None:
    info = choose(list_devices()).device
    limits = replace(info.limits, max_workgroup_subgroups=64)
    device = Device(replace(info, type=DeviceType.INTEGRATED, limits=limits))
    assert device.flavor == "subgroup", device.flavor
    check.settings = lambda device: [("subgroup", device.lanes)]
    names = sys.argv[1:]
    results = [
        result
        for name in names or OPS
        for result in check.check(device, name, quick=not names and name in LARGE)
        if result.op == name
    ]
    failed = [f"{each.op} {each.case} {each.kernel}: {each.worst} {each.error}" for each in results if not each.passed]
    print(json.dumps({"lanes": device.lanes, "cases": len(results), "failed": failed}))


if __name__ == "__main__":
    main()
