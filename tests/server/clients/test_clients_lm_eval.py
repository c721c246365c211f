"""EleutherAI's lm-eval, run as people run it, over /v1/completions with echo: its likelihoods are those of the model
itself.
"""

import json
import os
import subprocess
import sys

import huggingface_tokenizer
import pytest
from clients_world import serving
from places import CLIENTS
from starter_models import model_path

CAPITALS = {
    "France": ["Paris", "Rome"],
    "Italy": ["Rome", "Cairo"],
    "Egypt": ["Cairo", "Helsinki"],
    "Japan": ["Tokyo", "Buenos Aires"],
}
SECONDS = 100


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("clients")) as url:
        yield url


def run_lm_eval(url, folder) -> tuple[dict, list[dict]]:
    """(figures of the task, its samples)"""
    data = folder / "capitals.jsonl"
    data.write_text(
        "".join(json.dumps({"country": country, "cities": cities}) + "\n" for country, cities in CAPITALS.items())
    )
    (folder / "tasks").mkdir()
    (folder / "tasks" / "capitals.yaml").write_text((CLIENTS / "capitals.yaml").read_text().replace("DATA", str(data)))
    huggingface_tokenizer.write(model_path("smollm2"), folder / "tokenizer")
    model = (
        f"model=smollm2,base_url={url}/v1/completions,tokenizer={folder / 'tokenizer'},tokenizer_backend=huggingface,"
        "tokenized_requests=False,max_length=512"
    )
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / "home"),
        "OPENAI_API_KEY": "none",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lm_eval",
            "run",
            "--model",
            "local-completions",
            "--model_args",
            model,
            "--tasks",
            "capitals",
            "--include_path",
            folder / "tasks",
            "--batch_size",
            "1",
            "--output_path",
            folder / "out",
            "--log_samples",
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (folder / "out").rglob("results_*.json")
    (samples,) = (folder / "out").rglob("samples_capitals_*.jsonl")
    return json.loads(results.read_text())["results"]["capitals"], [
        json.loads(line) for line in samples.read_text().splitlines()
    ]


def test_likelihoods_are_those_of_the_model(url, tmp_path, monkeypatch):
    from vkbackend import Session

    monkeypatch.setenv("VKBACKEND_CPU", "exact")  # the numpy references, for the session below
    figures, samples = run_lm_eval(url, tmp_path)
    assert figures["acc,none"] >= 0.75 and len(samples) == len(CAPITALS)
    session = Session(model_path("smollm2"))
    for sample in samples:
        prompt = f"The capital of {sample['doc']['country']} is"
        for city, ((logprob, is_greedy),) in zip(sample["doc"]["cities"], sample["resps"]):
            tokens, num_known = session.tokenizer.encode(f"{prompt} {city}"), len(session.tokenizer.encode(prompt))
            logits = session.logits(tokens)[num_known - 1 : -1]
            assert abs(float(logprob) - float(session.logprobs(tokens)[num_known - 1 :].sum())) < 0.05, (prompt, city)
            assert (str(is_greedy) == "True") == (logits.argmax(1).tolist() == tokens[num_known:]), (prompt, city)
