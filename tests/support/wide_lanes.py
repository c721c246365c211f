"""llvmpipe with subgroups of 32 and 64 lanes: the sizes of real GPUs, executed on a CPU.

Stock software drivers have 8 lanes (llvmpipe) and 4 (SwiftShader), so an index that is wrong only at 64 lanes passes
them all. llvmpipe's compiler takes vectors of up to 64 elements, but lp_state_cs.c and lp_state_fs.c clamp the lanes to
`MIN2(lp_native_vector_width / 32, 16)`, while lavapipe reports `lp_native_vector_width / 32` as the subgroup size:
beyond 512 bits the stock driver reports lanes that it does not execute. `make` writes a copy of the driver with 64 in
place of that 16:

    cmp $0x200,%edx; mov $0x10,%edx   ->   cmp $0x800,%edx; mov $0x40,%edx

Texel buffers are wrong in Mesa beyond 16 lanes; leave the `texel` kernels out there.
"""

import json
from dataclasses import replace
from pathlib import Path

from vkbackend.device.device_info import DeviceInfo, DeviceType

STOCK, WIDE = bytes.fromhex("81fa00020000ba10000000"), bytes.fromhex("81fa00080000ba40000000")
MAX_WORKGROUP_SUBGROUPS = 64  # of `dressed`: enough for all slices
NUM_PLACES = 2  # compute and fragment shaders


def make(folder: Path, manifest: Path) -> Path:
    """Write the patched driver and its ICD manifest into `folder`; -> the manifest's path.

    manifest: the stock driver's. Raises ValueError if the driver's code is not the one expected (another Mesa build).
    """
    described = json.loads(manifest.read_text())
    library = Path(described["ICD"]["library_path"])
    code = library.read_bytes()
    if code.count(STOCK) != NUM_PLACES:
        raise ValueError(f"{library}: {code.count(STOCK)} places clamp the number of lanes, expected {NUM_PLACES}")
    (folder / library.name).write_bytes(code.replace(STOCK, WIDE))
    described["ICD"]["library_path"] = str(folder / library.name)
    wide = folder / "wide_icd.json"
    wide.write_text(json.dumps(described))
    return wide


def dressed(info: DeviceInfo) -> DeviceInfo:
    """llvmpipe taken for an integrated GPU, which gets the kernels that real GPUs run."""
    return replace(
        info, type=DeviceType.INTEGRATED, limits=replace(info.limits, max_workgroup_subgroups=MAX_WORKGROUP_SUBGROUPS)
    )


def environment(manifest: Path, lanes: int) -> dict[str, str]:
    """Variables for a process with subgroups of `lanes`. Mesa's disk cache ignores the vector width, so it is off."""
    return {
        "VK_DRIVER_FILES": str(manifest),
        "VK_ICD_FILENAMES": str(manifest),
        "LP_NATIVE_VECTOR_WIDTH": str(32 * lanes),
        "MESA_SHADER_CACHE_DISABLE": "true",
        "GALLIVM_PERF": "nopt",  # compiles two to three times faster, runs slower
    }
