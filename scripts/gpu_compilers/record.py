#!/usr/bin/env python3
"""Record the kernels that models would run on a GPU, on lavapipe, without running one; jobs for sweep.py.

    .venv/bin/python scripts/gpu_compilers/record.py WORK

A target is what a GPU looks like to the ops: lanes, limits, features. For each target every (shader, constants,
subgroup size) of decode, batches, prefill and scoring is written to WORK/kernels.json, with all candidates of the
tuner; the SPIR-V goes to WORK/spv/.
"""

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAVAPIPE = "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json"
MODELS = {  # architecture, width, heads, kv heads, head dimension, feed forward
    "llama64": ("llama", 1024, 16, 4, 64, 2048),  # like Llama 3.2 1B
    "llama128": ("llama", 1024, 12, 4, 128, 2048),  # like Llama 3.2 3B: 3 heads a kv head
    "gemma256": ("gemma3", 1024, 4, 1, 256, 2048),  # like Gemma 3 1B
}
FORMATS = ("f16", "q8_0", "q4_0", "q4_k", "q6_k")
FEATURES = (
    "subgroup_basic subgroup_ballot subgroup_arithmetic subgroup_shuffle subgroup_size_control storage16 storage8 "
    "float16 int8 int16 int64 integer_dot_product memory_model"
).split()
INTEL_OPEN_SOURCE_MESA = 6


@dataclass(frozen=True)
class Target:
    """lanes: the driver's own. matrix: the size of cooperative matrices, "" for none. driver_id: VkDriverId."""

    name: str
    lanes: int
    matrix: str
    flavor: str = "subgroup"
    driver_id: int = 0


TARGETS = (
    Target("amd64", 64, "16x16x16"),
    Target("amd32", 32, "16x16x16"),
    Target("intel", 32, "", driver_id=INTEL_OPEN_SOURCE_MESA),
    Target("base", 32, "", "base"),
)


class Recorder:
    """Stands in for the tuner: keeps every dispatch of a step or of a candidate."""

    def __init__(self):
        from vkbackend.ops import tuning

        self.dispatches = []
        recorder = self

        def fastest(tuner, op, inputs, outputs, attrs, measure=True):
            for candidate in op.candidates(tuner.device, inputs, **attrs):
                recorder.dispatches += op.record(tuner.device, inputs, outputs, **attrs, **candidate)
            return {}

        tuning.Tuning.fastest = fastest

    def take(self, device, step) -> list:
        """The dispatches of a `RecordedStep` and of its candidates, as the device's kernels need them."""
        taken = [*self.dispatches, *(each for part in step.parts for each in part)]
        self.dispatches = []
        return [device.kernels.fitting(each) for each in taken]


def dressed(info, target: Target):
    """The description of lavapipe with the target's lanes and features."""
    from vkbackend.device.device_info import DeviceType

    matrix = {"cooperative_matrix", f"cooperative_matrix_{target.matrix}"} if target.matrix else set()
    return replace(
        info,
        type=DeviceType.INTEGRATED,
        features=frozenset(FEATURES) | matrix,
        subgroup_size=target.lanes,
        subgroup_min=8 if target.driver_id else 32,
        subgroup_max=max(32, target.lanes),
        driver_id=target.driver_id,
        limits=replace(info.limits, max_workgroup_subgroups=64, max_workgroup_invocations=1024),
    )


def model_file(folder: Path, name: str, format: str) -> Path:
    """A model of two layers with the shapes of MODELS[name]."""
    import tiny_gguf

    path = folder / f"{name}-{format}.gguf"
    if not path.exists():
        architecture, *shape = MODELS[name]
        names = ("WIDTH", "NUM_HEADS", "NUM_KV_HEADS", "HEAD_DIM", "FEED_FORWARD")
        for constant, value in zip(names, shape):
            setattr(tiny_gguf, constant, value)
        tiny_gguf.write_tiny_gguf(path, architecture, format, num_layers=1, context_length=4096, window=512)
    return path


def step_shapes() -> dict:
    """Name of a role -> the step that is recorded for it."""
    from vkbackend.graph.step import StepShape

    return {
        "decode1": StepShape(1, 1, True),
        "decode1-long": StepShape(1, 1, True, 16),
        "decode8": StepShape(8, 8, True),
        "prefill16": StepShape(16, 1),
        "prefill128": StepShape(128, 1),
        "prefill128-float16": StepShape(128, 1, precision="float16"),
        "prefill128-int8": StepShape(128, 1, precision="int8"),
        "score": StepShape(32, 0, num_scored=32, with_candidates=True),
    }


def row_of(dispatch) -> dict:
    """One kernel as sweep.py takes it. bindings: s for a storage buffer, t for a texel buffer."""
    from vkbackend.device import shaders

    texel = {str(binding) for binding in shaders.variants()[dispatch.shader]["texel"]}
    bindings = range(len(dispatch.reads) + len(dispatch.writes))
    return {
        "shader": dispatch.shader,
        "constants": [list(each) for each in dispatch.constant_words],
        "subgroup": dispatch.subgroup_size,
        "push": len(dispatch.push_words),
        "bindings": "".join("t" if str(binding) in texel else "s" for binding in bindings),
        "roles": [],
    }


def record(target: Target, folder: Path, recorder: Recorder) -> list[dict]:
    """All kernels of all MODELS and FORMATS on a device that looks like `target`."""
    from vkbackend.device.choosing import choose
    from vkbackend.device.context import Device
    from vkbackend.device.discover import list_devices
    from vkbackend.engine.runner import ModelRunner
    from vkbackend.graph.forward import CacheValues, build
    from vkbackend.loading import load

    info = choose(list_devices()).device
    seen = {}
    for name in MODELS:
        for format in FORMATS:
            device = Device(info)
            device.info, device.flavor = dressed(info, target), target.flavor
            device.lanes = device.info.lanes
            device.is_unified = True
            model = load(model_file(folder, name, format), device)
            for kv_type in ("f16", "q8_0", "f32") if format == "q4_k" else ("f16",):
                runner = ModelRunner(model, context_length=4096, max_sequences=8, kv_type=kv_type, prefill_chunk=128)
                executor = runner.executor
                for role, shape in step_shapes().items():
                    cache = CacheValues(executor.cache)
                    graph = build(executor.model, cache, shape, executor.table_shape, executor.keep)
                    for dispatch in recorder.take(device, executor._record(graph, True)):
                        row = row_of(dispatch)
                        key = dispatch.shader, dispatch.constant_words, dispatch.subgroup_size
                        roles = seen.setdefault(key, row)["roles"]
                        if (told := f"{name} {format} {kv_type} {role}") not in roles:
                            roles.append(told)
                del runner, executor
            del model
            device.close()
    return list(seen.values())


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    work = Path(sys.argv[1]).resolve()
    os.environ["VK_DRIVER_FILES"] = os.environ["VK_ICD_FILENAMES"] = LAVAPIPE
    os.environ["VKBACKEND_CACHE"] = str(work / "cache")  # a tuning result of this machine must not hide candidates
    sys.path.insert(0, str(ROOT / "tests/support"))
    (work / "models").mkdir(parents=True, exist_ok=True)
    (work / "spv").mkdir(exist_ok=True)

    from vkbackend.device import shaders

    recorder = Recorder()
    kernels = {target.name: record(target, work / "models", recorder) for target in TARGETS}
    for shader in {row["shader"] for rows in kernels.values() for row in rows}:
        (work / "spv" / f"{shader}.spv").write_bytes(shaders.spirv(shader))
    (work / "kernels.json").write_text(json.dumps(kernels, indent=0))
    for name, rows in kernels.items():
        print(f"{name}: {len(rows)} kernels")


if __name__ == "__main__":
    main()
