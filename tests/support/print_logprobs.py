"""print_logprobs.py MODEL.gguf [NUM_THREADS]: 24 greedy tokens and their log-probabilities' bits, as the server's
engine computes them: on a Vulkan device with OLLAMA_VULKAN=1, else on the CPU.
"""

import struct
import sys

from vkbackend import settings
from vkbackend.engine.request import GenerationRequest, Piece, SamplingOptions
from vkbackend.placement.opening import open_engine

PROMPT = "In a shop at the end of the street an old man repaired clocks. Every morning he"

opened = open_engine(sys.argv[1], num_threads=int(sys.argv[2]) if len(sys.argv) > 2 else 0)
assert bool(opened.size_vram) == settings.get("OLLAMA_VULKAN"), opened.placement
request = GenerationRequest(
    opened.tokenizer.encode(PROMPT), SamplingOptions(temperature=0), num_predict=24, logprobs=True, top_logprobs=5
)
for event in opened.engine.generate(request):
    for each in event.logprobs if isinstance(event, Piece) else ():
        for one in [each, *each.top]:
            print(one.token_id, struct.pack("<d", one.logprob).hex())
opened.close()
