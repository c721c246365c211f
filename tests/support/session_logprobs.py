"""session_logprobs.py PATH MODEL.gguf: the log-probability of each token of a text after those before it, as JSON.

PATH: "vulkan" or "cpu". Input: JSON with the tokens' ids. A device has as much memory as DEVICE_GIB says.
"""

import json
import sys

import numpy as np
from scarce_memory import limit_memory

from vkbackend.device.selection import open_device
from vkbackend.session import Session


def main(path: str, model: str) -> None:
    tokens = json.load(sys.stdin)
    limit_memory()
    session = Session(model, open_device() if path == "vulkan" else None, context_length=len(tokens) + 32)
    found = []
    for row, following in zip(session.rows(tokens[:-1]), tokens[1:]):
        logits = row.full().astype(np.float64)
        found.append(float(logits[following] - np.logaddexp.reduce(logits)))
    print(json.dumps(found))


main(*sys.argv[1:])
