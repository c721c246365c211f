"""The most probable next tokens as llama.cpp finds them on the CPU, with a cache of float32.

    python tests/support/llama_cpp_top.py < REQUESTS > ANSWERS

REQUESTS: JSON, {path of a model: prompts, each a list of token ids}. ANSWERS: {path: [[[id, log-probability], ...] for
each prompt]}.
"""

import json
import sys

import xllamacpp

COUNT = 8


def answers(path: str, prompts: list[list[int]]) -> list[list[list[float]]]:
    """The best tokens after each prompt."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = path, 512, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.warmup = False
    server = xllamacpp.Server(parameters)
    found = []
    for prompt in prompts:
        request = {"prompt": prompt, "n_predict": 1, "n_probs": COUNT, "temperature": 0.0, "cache_prompt": False}
        listed = server.handle_completions(request)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found.append([[each["id"], each["logprob"]] for each in listed])
    return found


json.dump({path: answers(path, prompts) for path, prompts in json.load(sys.stdin).items()}, sys.stdout)
