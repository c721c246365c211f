"""Two engines at work on one device, one of a model that lies there, one of a model that lies partly on the CPU:
python run_shared_device.py MODEL

For validation layers to watch. Prints one line of JSON: tokens of each answer, places, and the layers that were
there.
"""

import json
import os
import sys

from run_generation import layers_in_process
from run_two_devices import together


def main(path):
    os.environ["OLLAMA_VULKAN"] = "1"
    found = together(path, [{}, {"num_gpu": 3}])
    print(
        json.dumps(
            {
                "places": [places for places, _ in found],
                "answers": [answers for _, answers in found],
                "layers": layers_in_process(),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
