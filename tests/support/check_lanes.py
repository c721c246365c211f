"""Check the `subgroup` kernels at the driver's own lanes, the device taken for an integrated GPU; a program.

    python check_lanes.py                prints {"lanes": 64, "cases": 96, "cpu_seconds": 80.5, "failed": [...]}
    python check_lanes.py --planted      the same for kernels with errors that show at 64 lanes only

An integrated GPU gets the kernels that real GPUs run: the `subgroup` flavor, products cut into slices of K. Small ops
run all of their cases. Those of CASES run what depends on lanes, with few kernels each, since compiling takes most
of the time.
"""

import json
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import wide_lanes

from vkbackend import check
from vkbackend.device import shaders
from vkbackend.device.choosing import choose
from vkbackend.device.context import Device
from vkbackend.device.discover import list_devices
from vkbackend.ops import OPS
from vkbackend.ops.matmul_kernels import SHARED
from vkbackend.ops.op import Op
from vkbackend.ops.packed import FORMATS


def first_case(format: str) -> str:
    """Label of the first case of a format in matmul's table."""
    return next(case.label for case in OPS["matmul"].cases if case.label.split()[0] == format)


# Of the large ops: label of a case -> its kernels.
SPLIT = [{}, {"splits": 2}]
CASES: dict[str, dict[str, list[dict]]] = {
    "attention": {"decode": SPLIT, "odd heads": [{}], "many chunks, q8_0": [{}]},
    "decode_attention": {"partial halves, f32": [{}], "halves and norms, q8_0": SPLIT},
    "matmul": {
        # What decode takes, for each format; where norm, gate or slices are in play, larger tiles too.
        **{first_case(name): [{"tile": (1, 1)}] for name in FORMATS},
        "q4_1 1x200x1056 norm": [{"tile": (1, 1)}, {"tile": (8, 1)}],
        "q4_1 6x37x256 norm residual": [{"tile": (4, 2)}],
        "q4_1 1x200x256 norm silu": [{"tile": (2, 1)}],
        "q4_1 5x37x512 gelu": [{"tile": (4, 4)}],
        "q4_1 40x70x256 norm silu": [{"tile": SHARED}],
    },
}
# Kernel's source -> (text, text with an error that shows at 64 lanes only: the upper half repeats the lower one).
PLANTED = {
    "matmul.comp": ("LANES * ROWS + LANE;", "LANES * ROWS + (LANE & 31u);"),
    "rms_norm.comp": ("uint i = LANE;", "uint i = LANE & 31u;"),
    "split_heads.comp": ("for (uint four = LANE;", "for (uint four = LANE & 31u;"),
}
PLANTED_CASES = {"matmul": "q4_1 1x100x768 norm", "rms_norm": "one row", "split_heads": "halves and norms, f16"}


def trimmed(name: str) -> Iterator[Op]:
    """The op with one case of CASES and its kernels, for each of them."""
    cases = {case.label: case for case in OPS[name].cases}
    for label, kernels in CASES[name].items():
        yield replace(OPS[name], cases=(cases[label],), variants=lambda *inputs, found=kernels, **attrs: found)


def plant(device: Device, folder: Path) -> None:
    """Make kernels with the errors of PLANTED take the place of the variants."""
    shutil.copytree(shaders.SOURCES, folder, dirs_exist_ok=True)
    for source, (right, wrong) in PLANTED.items():
        text = (folder / source).read_text()
        assert right in text, source
        (folder / source).write_text(text.replace(right, wrong))
    for variant in shaders.variants().values():
        if variant["source"] in PLANTED and variant["name"].endswith("_subgroup"):
            if variant["defines"].get("FORMAT", "") not in ("", "Q4_1") or variant["defines"].get("ROWS", 1) != 1:
                continue
            path = folder / "planted.spv"
            shaders._builder().compile_variant(folder, variant, path)
            interface = shaders.interface(variant["name"])
            device.kernels.add(variant["name"], path.read_bytes(), variant["requires"], interface=interface)


def checked(device: Device, op: Op) -> Iterator[check.Result]:
    """`check.check` for this op alone."""
    check.OPS = {op.name: op}
    return check.check(device)


def main() -> None:
    info = wide_lanes.dressed(choose(list_devices()).device)
    device = Device(info)
    assert device.flavor == "subgroup", device.flavor
    check.settings = lambda device: [("subgroup", device.lanes)]
    with tempfile.TemporaryDirectory() as folder:
        if "--planted" in sys.argv:
            plant(device, Path(folder))
            OPS["matmul"] = replace(OPS["matmul"], variants=lambda *inputs, **attrs: [{"tile": (1, 1)}])
            ops = [
                replace(OPS[name], cases=tuple(case for case in OPS[name].cases if case.label == label))
                for name, label in PLANTED_CASES.items()
            ]
        else:
            ops = [op for name in OPS for op in (trimmed(name) if name in CASES else [OPS[name]])]
        results = [result for op in ops for result in checked(device, op)]
    failed = [f"{each.op} {each.case} {each.kernel}: {each.worst} {each.error}" for each in results if not each.passed]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = round(usage.ru_utime + usage.ru_stime, 1)
    print(json.dumps({"lanes": device.lanes, "cases": len(results), "cpu_seconds": seconds, "failed": failed}))


if __name__ == "__main__":
    main()
