"""Compares servers: each gets the same prompts, one after another in every round, so that a busy minute affects all.

In: our own server or engine, and its peers (`peers.py`). Out: `Comparison`: the rates of each, and the ratio of ours to
theirs in each round. A slow peer gets shorter prompts, fewer tokens and fewer rounds, as its time limit allows; ours is
measured at those sizes, too.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from ..errors import VkbackendError
from .peers import Sample

WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother area
money story fact month lot right study book eye job word business issue side kind head house service friend father
power hour game line end member law car city community name
""".split()
PEER_SECONDS = 60.0  # time limit of one peer
DECODE_WORDS = 4  # length of the prompts for decoding
FEWEST_WORDS = 16
FEWEST_TOKENS = 4
ATTEMPTS = 3  # prompts to try if a model ends its answer at once

Size = tuple[str, int, int]  # phase, words of the prompt or decoded tokens, clients


class Server(Protocol):
    """A server or engine to measure, see `peers.py`."""

    @property
    def name(self) -> str:
        """What tables and plots call the server."""
        ...

    def run(self, prompt: str, tokens: int) -> Sample:
        """Answer one prompt with at most `tokens` tokens."""
        ...


@dataclass(frozen=True)
class Range:
    """A figure over all rounds."""

    median: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> "Range":
        """The range of one value per round."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Line:
    """The rate of one server at one size.

    phase: "prefill" (size: words of the prompt; rate: prompt tokens per second until the first token) or "decode"
    (size: tokens; rate: tokens per second after the first)
    clients: number of concurrent requests; with several, the rate counts all their tokens from the start
    ratio: ours / theirs, round by round; None for ours
    """

    phase: str
    size: int
    clients: int
    server: str
    rate: Range
    ratio: Range | None = None


@dataclass
class ServerPlan:
    """What is measured of one server.

    prompts: lengths in words
    clients: numbers of concurrent requests, above 1
    is_cut: the server is slow and gets less than the others
    """

    prompts: list[int]
    tokens: int
    rounds: int
    clients: tuple[int, ...] = ()
    is_cut: bool = False

    @property
    def sizes(self) -> list[Size]:
        """All sizes to measure."""
        several: list[Size] = [] if self.is_cut else [("decode", self.tokens, clients) for clients in self.clients]
        return [*(("prefill", size, 1) for size in self.prompts), ("decode", self.tokens, 1), *several]


@dataclass
class Comparison:
    """All lines, and the name of our server."""

    own: str
    lines: list[Line]


def compare(
    own: Server,
    peers: Sequence[Server],
    *,
    prompts: Sequence[int] = (16, 128),
    tokens: int = 32,
    rounds: int = 3,
    clients: Sequence[int] = (1,),
    peer_seconds: float = PEER_SECONDS,
    say: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Measure our server and its peers. Of several peers with one name, the better one counts, size by size.

    prompts: lengths in words; clients: numbers of concurrent requests, besides 1; say: receives progress messages
    Raises what `run` raises.
    """
    whole = ServerPlan(sorted(prompts), tokens, rounds, tuple(sorted(count for count in set(clients) if count > 1)))
    plans = {own: whole} | _peer_plans(peers, whole, peer_seconds, say)
    measured = [peer for peer in peers if peer in plans]
    sizes = sorted(
        {size for plan in plans.values() for size in plan.sizes},
        key=lambda each: (each[0] == "decode", each[2], each[1]),
    )
    rates: dict[tuple[Server, Size], list[float]] = {
        (server, size): [] for server in (own, *measured) for size in sizes
    }
    texts = random.Random(7)
    # The first round is not counted: servers compile, record and plan at the first use of a size.
    for each in range(-1, rounds):
        for size in sizes:
            phase, length, num_clients = size
            asked = [words(texts, length if phase == "prefill" else DECODE_WORDS) for _ in range(num_clients)]
            for server, plan in plans.items():
                if server is own or size in plan.sizes and each < plan.rounds and (each >= 0 or not plan.is_cut):
                    rate = _rate(server, phase, length, asked)
                    if each >= 0:
                        rates[server, size].append(rate)
    return Comparison(own.name, [line for size in sizes for line in _lines(own, measured, size, rates)])


def _peer_plans(
    peers: Sequence[Server], whole: ServerPlan, seconds: float, say: Callable[[str], None]
) -> dict[Server, ServerPlan]:
    """A plan for each peer that is fast enough."""
    plans = {}
    for peer in peers:
        plan = plan_for(peer, whole, seconds)
        if plan is None:
            say(
                f"{peer.name}: left out, it takes more than {seconds:.0f} seconds for a prompt of {DECODE_WORDS} words "
                f"and two tokens"
            )
            continue
        plans[peer] = plan
        lengths = ", ".join(map(str, plan.prompts))
        say(f"{peer.name}: prompts of {lengths} words, {plan.tokens} tokens, {plan.rounds} rounds")
    return plans


def _lines(
    own: Server, peers: Sequence[Server], size: Size, rates: dict[tuple[Server, Size], list[float]]
) -> Iterator[Line]:
    phase, length, clients = size
    ours = rates[own, size]
    yield Line(phase, length, clients, own.name, Range.of(ours))
    for name in dict.fromkeys(peer.name for peer in peers):
        alike = [rates[peer, size] for peer in peers if peer.name == name and rates[peer, size]]
        if alike:
            theirs = max(alike, key=statistics.median)
            ratio = Range.of([a / b for a, b in zip(ours, theirs)])
            yield Line(phase, length, clients, name, Range.of(theirs), ratio)


def plan_for(peer: Server, whole: ServerPlan, seconds: float) -> ServerPlan | None:
    """Cut `whole` to what the peer can do in `seconds`. None if loading the model and two tokens already take longer.

    A first request loads the model; a second, short one measures the speed.
    """
    first = peer.run(words(random.Random(1), DECODE_WORDS), 2)
    if first.first_seconds + first.step_seconds > seconds:
        return None
    probe = peer.run(words(random.Random(2), FEWEST_WORDS), FEWEST_TOKENS)
    word_seconds = probe.first_seconds / FEWEST_WORDS
    token_seconds = probe.step_seconds or word_seconds

    def cost(plan: ServerPlan) -> float:
        return plan.rounds * (
            word_seconds * (sum(plan.prompts) + DECODE_WORDS) + token_seconds * plan.tokens * (1 + sum(plan.clients))
        )

    plan = replace(whole, prompts=list(whole.prompts))
    while cost(plan) > seconds:
        plan.is_cut = True
        plan.clients = ()
        if len(plan.prompts) > 1 and plan.prompts[-1] * word_seconds > plan.tokens * token_seconds:
            plan.prompts.pop()
        elif plan.tokens > FEWEST_TOKENS:
            plan.tokens = max(FEWEST_TOKENS, plan.tokens // 2)
        elif len(plan.prompts) > 1:
            plan.prompts.pop()
        elif plan.rounds > 1:
            plan.rounds -= 1
        elif plan.prompts[0] > FEWEST_WORDS:
            plan.prompts = [max(FEWEST_WORDS, plan.prompts[0] // 2)]
        else:
            break
    return plan


def words(source: random.Random, count: int) -> str:
    """Random words, so that no prompt begins like an earlier one, which a cache may hold; common words, of about one
    token each.
    """
    return " ".join(source.choice(WORDS) for _ in range(count))


def _rate(server: Server, phase: str, size: int, prompts: list[str]) -> float:
    """Tokens per second. prompts: one for each client."""
    if len(prompts) > 1:
        begin = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as pool:
            answers = list(pool.map(lambda prompt: server.run(prompt, size), prompts))
        return sum(answer.tokens for answer in answers) / (time.perf_counter() - begin)
    (prompt,) = prompts
    if phase == "prefill":
        answer = server.run(prompt, 1)
        return answer.prompt_tokens / answer.first_seconds
    for attempt in range(ATTEMPTS):
        answer = server.run(prompt, size)
        if answer.step_seconds:
            return 1 / answer.step_seconds
        prompt = words(random.Random(100 + attempt), DECODE_WORDS)
    raise VkbackendError(
        f"{server.name} ends its answers after one token, so decoding cannot be measured; try another model"
    )
