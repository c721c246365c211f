"""Raw log-probability of every token of tests/data/english.txt from llama.cpp on the CPU, kept as data for test_agreement.py.

    python tests/prompt_logprobs_llama_cpp.py MODEL.gguf tests/data/prompt_logprobs_NAME.json [KEY]

KEY is "logprobs", or "logprobs_f32" for the model that expand_to_f32.py wrote; other keys of the file stay.

xllamacpp has no prompt scoring: each token is forced by a large logit bias, the reported log-probability is of the raw logits.
"""

import json
import sys
from pathlib import Path

import xllamacpp

NUM_TOKENS = 512
FORCING_BIAS = 10000.0

from vkbackend.gguf.reader import GGUFFile  # noqa: E402
from vkbackend.tokenizer import Tokenizer  # noqa: E402


def main(model: str, output: str, key: str = "logprobs") -> None:
    ids = Tokenizer.from_gguf(GGUFFile.open(model)).encode((Path(__file__).parent / "data/english.txt").read_text())[:NUM_TOKENS]
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = model, 1024, 1, 2
    server = xllamacpp.Server(params)
    logprobs = []
    for position in range(1, len(ids)):
        reply = server.handle_completions({"prompt": ids[:position], "n_predict": 1, "n_probs": 1, "temperature": 0.0, "cache_prompt": True,
                                           "logit_bias": [[ids[position], FORCING_BIAS]]})
        logprobs.append(round(reply["choices"][0]["logprobs"]["content"][0]["logprob"], 5))
    kept = json.loads(Path(output).read_text()) if Path(output).exists() else {}
    Path(output).write_text(json.dumps({**kept, "tokens": ids, key: logprobs}))


main(*sys.argv[1:])
