"""Many clients at once on a real model and device: does everyone get what it gets alone, and how much faster is it
than one by one?

    python tests/support/soak_clients.py MODEL.gguf --requests 200 --clients 16

Requests have common beginnings (three system prompts), random lengths, some a stop string, and some clients leave
early. Each distinct request runs alone first, on an empty cache. The page cache is small, so that pages are evicted
and generations give way to others. Prints figures as JSON; the exit status is 1 where an answer differs from the one
alone or a page is not where it should be.
"""

import argparse
import json
import random
import sys
import threading
import time
from dataclasses import dataclass, replace

from check_pages import check_pages

from vkbackend.engine.engine import Engine
from vkbackend.engine.request import Finished, GenerationRequest, Piece, SamplingOptions
from vkbackend.engine.runner import ModelRunner
from vkbackend.loading import load
from vkbackend.tokenizer import Tokenizer

SYSTEMS = [
    "You are a friendly assistant who answers every question in one short sentence and never forgets to be polite to "
    "the people you meet. ",
    "The following is a story for children about a fox, a hen and a river. It is told slowly, with many details of "
    "the place, of the "
    "weather and of what the animals think of each other, so that whoever listens falls asleep before its end. ",
    "Notes of a ship's captain. ",
]
WORDS = (
    "the fox ran over a hill to see what lay behind it and found an old house with two doors one of them open to "
    "the wind"
).split()


@dataclass
class Answer:
    """What came of a request. logprobs: (token, log-probability) of the tokens that were sent."""

    text: str
    logprobs: list[tuple[int, float]]
    finished: Finished | None = None


def open_engine(path, device, *, parallel: int, num_pages: int | None, context_length: int = 512) -> Engine:
    runner = ModelRunner(load(path, device), context_length=context_length, max_sequences=parallel, num_pages=num_pages)
    return Engine(runner, Tokenizer.from_gguf(runner.model.gguf))


def distinct_requests(tokenizer, count: int, rng: random.Random) -> list[GenerationRequest]:
    options = SamplingOptions(temperature=0, repeat_penalty=1.0)
    prompts = [
        rng.choice(SYSTEMS) + " ".join(rng.choice(WORDS) for _ in range(rng.randrange(2, 60))) for _ in range(count)
    ]
    return [
        GenerationRequest(tokenizer.encode(prompt), options, rng.randrange(4, 28), logprobs=True) for prompt in prompts
    ]


def ask(engine: Engine, request: GenerationRequest, leave_after: int | None = None) -> Answer:
    """Run it to its end, or until so many pieces have come."""
    answer, number = Answer("", []), 0
    for event in engine.generate(request):
        if isinstance(event, Piece):
            answer.text += event.text
            answer.logprobs += [(entry.token_id, entry.logprob) for entry in event.logprobs]
        elif isinstance(event, Finished):
            answer.finished = event
        number += 1
        if number == leave_after:
            break
    return answer


def difference(request: GenerationRequest, answer: Answer, alone: Answer) -> str | None:
    """How an answer is not the one alone, or a beginning of it where it was cut short."""
    if answer.logprobs != alone.logprobs[: len(answer.logprobs)]:
        at = next(index for index, (one, other) in enumerate(zip(answer.logprobs, alone.logprobs)) if one != other)
        return f"token {at}: {answer.logprobs[at]}, alone {alone.logprobs[at]}"
    whole = alone.text.split(request.stop[0])[0] if request.stop else alone.text
    if answer.text != (whole[: len(answer.text)] if answer.finished is None else whole):
        return f"text {answer.text!r}, alone {whole!r}"
    return None


def run_all(engine: Engine, jobs: list[tuple], num_clients: int) -> tuple[list[Answer], float]:
    """(answers in the order of the jobs, seconds); each client takes the next job when it has finished one."""
    answers, numbers, lock = [None] * len(jobs), iter(range(len(jobs))), threading.Lock()

    def client():
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            answers[number] = ask(engine, *jobs[number])

    begin = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, time.perf_counter() - begin


def count_who_give_way(engine: Engine) -> list:
    """A list that gets an entry with each generation that gives way to others from now on."""
    gave_way, preempt = [], engine._preempt
    engine._preempt = lambda generation: (gave_way.append(generation), preempt(generation))
    return gave_way


def leaks(engine: Engine) -> str:
    """What is wrong with the pages of an engine that all clients have left; empty where nothing is."""
    while engine.num_unfinished:
        time.sleep(0.01)
    try:
        check_pages(engine.runner.pages, list(engine.runner.sequences.values()))
        assert not engine.runner.sequences, "a sequence is open"
    except AssertionError as error:
        return str(error) or "a page is not where it should be"
    return ""


def soak(engine: Engine, *, requests: int, clients: int, distinct: int, seed: int = 0) -> dict:
    """-> figures, with `differences` and `leaked` empty where all is well."""
    rng, runner = random.Random(seed), engine.runner
    kinds = distinct_requests(engine.tokenizer, distinct, rng)
    alone = []
    for request in kinds:
        runner.forget()  # between requests nothing runs, so that another thread than the engine's may ask
        alone.append(ask(engine, request))
    jobs, expected = [], []
    for _ in range(requests):
        index = rng.randrange(distinct)
        request, words = kinds[index], alone[index].text.split()
        if rng.random() < 0.3 and len(words) > 2:
            request = replace(request, stop=[words[len(words) // 2]])
        jobs.append((request, rng.choice([None, None, None, rng.randrange(1, 12)])))
        expected.append(alone[index])

    few = jobs[: max(requests // 4, 1)]
    run_all(engine, few, clients)  # steps of many sizes are recorded when they first occur
    gave_way = count_who_give_way(engine)
    runner.forget()
    answers, many_seconds = run_all(engine, jobs, clients)
    tokens = sum(len(answer.logprobs) for answer in answers)
    runner.forget()
    one_by_one, one_seconds = run_all(engine, few, 1)
    differences = [
        f"request {number}: {found}"
        for number, (job, answer, right) in enumerate(zip(jobs * 2, answers + one_by_one, expected + expected))
        if (found := difference(job[0], answer, right))
    ]
    one = sum(len(answer.logprobs) for answer in one_by_one) / one_seconds
    return {
        "requests": requests,
        "clients": clients,
        "tokens": tokens,
        "seconds": round(many_seconds, 1),
        "tokens_per_second": round(tokens / many_seconds, 1),
        "one_client_tokens_per_second": round(one, 1),
        "ratio": round(tokens / many_seconds / one, 2),
        "left_early": sum(answer.finished is None for answer in answers),
        "stop_strings": sum(bool(job[0].stop) for job in jobs),
        "gave_way": len(gave_way),
        "differences": differences,
        "leaked": leaks(engine),
    }


def main():
    from vkbackend.device import selection
    from vkbackend.placement import gpus

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--distinct", type=int, default=40, help="how many of the requests differ")
    parser.add_argument("--parallel", type=int, default=8, help="sequences in a step, OLLAMA_NUM_PARALLEL")
    parser.add_argument("--pages", type=int, default=32, help="pages of the cache, of 32 tokens")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    devices = [selection.opened(gpu.id) for gpu in gpus.usable()[:1]]
    with open_engine(
        arguments.model, devices[0] if devices else None, parallel=arguments.parallel, num_pages=arguments.pages
    ) as engine:
        figures = soak(
            engine,
            requests=arguments.requests,
            clients=arguments.clients,
            distinct=arguments.distinct,
            seed=arguments.seed,
        )
    print(json.dumps(figures))
    sys.exit(1 if figures["differences"] or figures["leaked"] else 0)


if __name__ == "__main__":
    main()
