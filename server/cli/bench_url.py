"""Measures a model on any server that speaks Ollama's API, to stand beside what `bench` measures here.

In: a client, a model's name there. Out: `Rates`, from the counts and durations that the server itself reports.
"""

import random
import statistics
from dataclasses import dataclass

from vkbackend.errors import VkbackendError

from .client import Client

REPEATS = 3
WORDS = "river stone cloud green seven letter under music paper window early north small garden light winter".split()


@dataclass(frozen=True)
class Rates:
    """Medians of REPEATS, in tokens per second; prompt_tokens and decoded_tokens as the server counted them last."""

    url: str
    model: str
    prompt_tokens: int
    decoded_tokens: int
    prefill_rate: float
    decode_rate: float


def measure(client: Client, model: str, prompt_tokens: int, tokens: int) -> Rates:
    """One request that is not counted, then REPEATS with prompts of their own: a prompt seen before may be in the server's cache.

    Prompts have about prompt_tokens tokens. Raises NoServer, ServerError, VkbackendError where a duration is missing.
    """
    prefills, decodes = [], []
    for repeat in range(REPEATS + 1):
        prompt = " ".join(random.Random(repeat).choices(WORDS, k=prompt_tokens))
        options = {"num_predict": tokens, "temperature": 0, "num_ctx": 2 * prompt_tokens + tokens}
        answer = client.call("POST", "/api/generate", {"model": model, "prompt": prompt, "raw": True, "stream": False, "options": options})
        try:
            prefill = answer["prompt_eval_count"] * 1e9 / answer["prompt_eval_duration"]
            decode = answer["eval_count"] * 1e9 / answer["eval_duration"]
        except (KeyError, ZeroDivisionError):
            raise VkbackendError(f"{client.url} tells no durations; give the URL of a server with Ollama's API") from None
        if repeat:
            prefills.append(prefill)
            decodes.append(decode)
    return Rates(client.url, model, answer["prompt_eval_count"], answer["eval_count"], statistics.median(prefills), statistics.median(decodes))
