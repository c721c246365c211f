"""Raw log-probability of every token of a text from llama.cpp on the CPU, kept as data for test_agreement.py and
test_score.py.

    python tests/support/prompt_logprobs_llama_cpp.py MODEL.gguf tests/data/prompt_logprobs_NAME.json [KEY [TEXT
    NUM_TOKENS]]

KEY is "logprobs", or "logprobs_f32" for the model that expand_to_f32.py wrote; other keys of the file stay. TEXT is
tests/data/english.txt, of which 512 tokens are taken; for tests/data/perplexity_NAME.json it is
tests/data/alice.txt, of which 4,096 are. An interrupted run is gone on with by the same command.

xllamacpp has no prompt scoring: each token is forced by a large logit bias, the reported log-probability is of the
raw logits.
"""

import json
import sys
from pathlib import Path

import xllamacpp
from places import DATA

from vkbackend.gguf.reader import GGUFFile
from vkbackend.tokenizer import Tokenizer

FORCING_BIAS = 10000.0
KEPT_AFTER = 256  # tokens


def main(
    model: str, output: str, key: str = "logprobs", text: str = str(DATA / "english.txt"), num_tokens: str = "512"
) -> None:
    ids = Tokenizer.from_gguf(GGUFFile.open(model)).encode(Path(text).read_text())[: int(num_tokens)]
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = model, len(ids) + 512, 1, 2
    server = xllamacpp.Server(params)
    kept = json.loads(Path(output).read_text()) if Path(output).exists() else {}
    logprobs = kept.get(key, [])
    for position in range(len(logprobs) + 1, len(ids)):
        reply = server.handle_completions(
            {
                "prompt": ids[:position],
                "n_predict": 1,
                "n_probs": 1,
                "temperature": 0.0,
                "cache_prompt": True,
                "logit_bias": [[ids[position], FORCING_BIAS]],
            }
        )
        logprobs.append(round(reply["choices"][0]["logprobs"]["content"][0]["logprob"], 5))
        if len(logprobs) % KEPT_AFTER == 0 or position == len(ids) - 1:
            Path(output).write_text(json.dumps({**kept, "tokens": ids, key: logprobs}))


main(*sys.argv[1:])
