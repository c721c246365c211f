"""Records a model's steps once for every derived barrier, each time without that one; the program that tests start
under a layer.

In: model files, the layer's message file. Out: one line of JSON: for each model and step size the number of barriers
and, for each barrier left out, how many hazards the layer reported and between which dispatches it stood; entry
"none" is the whole recording. Hazards between dispatches of one recording are found while it is recorded, so nothing
has to run.
"""

import argparse
import json
from pathlib import Path

from run_generation import layers_in_process

from vkbackend.device.choosing import choose
from vkbackend.device.context import Device
from vkbackend.device.discover import list_devices
from vkbackend.device.dispatch import Program
from vkbackend.engine.runner import ModelRunner
from vkbackend.graph.step import StepShape
from vkbackend.loading import load


class Log:
    """Counts the hazards that a file gained."""

    def __init__(self, path: Path):
        self.path, self.at = path, 0

    def new(self) -> str:
        data = self.path.read_bytes() if self.path.exists() else b""
        text, self.at = data[self.at :].decode("utf-8", "replace"), len(data)
        return text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument(
        "--steps", default="4,2 1,1,decode 2,2,decode,3", help="token slots, output rows, kind and splits of each step"
    )
    arguments = parser.parse_args()
    device = Device(choose(list_devices()).device)
    log, steps = Log(arguments.log), []
    for path in arguments.models:
        runner = ModelRunner(load(path, device), context_length=64, prefill_chunk=8)
        for size in arguments.steps.split():
            slots, rows, kind, splits = (*size.split(","), *("prefill", "1")[size.count(",") - 1 :])
            dispatches = runner.executor.plan(
                StepShape(int(slots), int(rows), kind == "decode", int(splits))
            ).dispatches
            log.new()
            whole = Program(device, dispatches)
            left_out = []
            none = log.new()
            for index, before in enumerate(whole.barriers):
                Program(device, dispatches, skip_barrier=index)
                text = log.new()
                first = whole.barriers[index - 1] if index else 0
                left_out.append(
                    {
                        "hazards": text.count("SYNC-HAZARD"),
                        "before": dispatches[before].label,
                        "after": [dispatch.label for dispatch in dispatches[first:before]],
                    }
                )
            steps.append({"model": Path(path).stem, "step": size, "none": none, "left_out": left_out})
    print(json.dumps({"layers": layers_in_process(), "steps": steps}))


if __name__ == "__main__":
    main()
