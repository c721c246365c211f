"""Several servers side by side: the same prompts to each, one after another in every round, so that a busy minute
hits all alike.

In: our own server or engine and its peers (`peers.py`). Out: `Comparison`: rates of each, and ours as a multiple of
theirs in each round. A slow peer gets shorter prompts, fewer tokens and fewer rounds, as many as fit its seconds;
ours is measured at those sizes, too.
"""

import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ..errors import VkbackendError

WORDS = """time year people way day man thing woman life child world school state family student group country problem hand part place case week
company system program question work government number night point home water room mother area money story fact month lot right study book eye
job word business issue side kind head house service friend father power hour game line end member law car city community name""".split()
PEER_SECONDS = 60.0  # that one peer may take in all
DECODE_WORDS = 4  # of the prompt before tokens are decoded
FEWEST_WORDS, FEWEST_TOKENS = 16, 4
ATTEMPTS = 3  # prompts, where a model ends its answer at once


@dataclass(frozen=True)
class Range:
    """Of all rounds."""

    median: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> "Range":
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Line:
    """One server at one size. phase: "prefill" (size: words of the prompt; prompt tokens per second until the first
    token came) or "decode" (size: tokens; per second, the first one left out). clients: that ask at the same time;
    of several the tokens of all count, from the moment they ask. ratio: ours / theirs, round by round; None for
    ours.
    """

    phase: str
    size: int
    clients: int
    server: str
    rate: Range
    ratio: Range | None = None


@dataclass
class Plan:
    """What one server is asked in each round, and in how many. clients: numbers of them above 1. is_cut: less than
    others, for it is slow.
    """

    prompts: list[int]
    tokens: int
    rounds: int
    clients: tuple[int, ...] = ()
    is_cut: bool = False

    @property
    def sizes(self) -> list[tuple[str, int, int]]:
        """(phase, size, clients) of all that is measured."""
        several = [] if self.is_cut else [("decode", self.tokens, clients) for clients in self.clients]
        return [*(("prefill", size, 1) for size in self.prompts), ("decode", self.tokens, 1), *several]


@dataclass
class Comparison:
    own: str
    lines: list[Line]


def compare(
    own,
    peers,
    *,
    prompts=(16, 128),
    tokens: int = 32,
    rounds: int = 3,
    clients=(1,),
    peer_seconds: float = PEER_SECONDS,
    say=lambda text: None,
) -> Comparison:
    """own, peers: things with `name` and `run(prompt, tokens) -> Sample`; of several peers with one name the better
    counts, size by size. clients: how many ask at the same time, beside one. say: gets a sentence now and then.
    Raises what `run` raises.
    """
    whole = Plan(sorted(prompts), tokens, rounds, tuple(sorted(count for count in set(clients) if count > 1)))
    plans = {own: whole}
    for peer in list(peers):
        plan = plan_for(peer, whole, peer_seconds)
        if plan is None:
            say(
                f"{peer.name}: left out, it takes more than {peer_seconds:.0f} seconds for a prompt of {DECODE_WORDS} "
                f"words and two tokens"
            )
            peers = [other for other in peers if other is not peer]
            continue
        plans[peer] = plan
        say(
            f"{peer.name}: prompts of {', '.join(map(str, plan.prompts))} words, {plan.tokens} tokens, {plan.rounds} "
            f"rounds"
        )
    sizes = sorted(
        {size for plan in plans.values() for size in plan.sizes},
        key=lambda each: (each[0] == "decode", each[2], each[1]),
    )
    rates = {(server, *size): [] for server in (own, *peers) for size in sizes}
    texts = random.Random(7)
    for each in range(
        -1, rounds
    ):  # the round before the first is not counted: servers compile, record and plan at a size's first use
        for size in sizes:
            asked = [words(texts, size[1] if size[0] == "prefill" else DECODE_WORDS) for _ in range(size[2])]
            for server, plan in plans.items():
                if server is own or size in plan.sizes and each < plan.rounds and (each >= 0 or not plan.is_cut):
                    rate = _rate(server, size[0], size[1], asked)
                    if each >= 0:
                        rates[server, *size].append(rate)
    return Comparison(own.name, [line for size in sizes for line in _lines(own, peers, size, rates)])


def _lines(own, peers, size, rates):
    ours = rates[own, *size]
    yield Line(*size, own.name, Range.of(ours))
    for name in dict.fromkeys(peer.name for peer in peers):
        alike = [rates[peer, *size] for peer in peers if peer.name == name and rates[peer, *size]]
        if alike:
            theirs = max(alike, key=statistics.median)
            yield Line(*size, name, Range.of(theirs), Range.of([a / b for a, b in zip(ours, theirs)]))


def plan_for(peer, whole: Plan, seconds: float) -> Plan | None:
    """After a request that loads the model, a short one says how fast the peer is, and so how much of `whole` fits
    into `seconds`. None where not even the first one does.
    """
    first = peer.run(words(random.Random(1), DECODE_WORDS), 2)
    if first.first_seconds + first.step_seconds > seconds:
        return None
    probe = peer.run(words(random.Random(2), FEWEST_WORDS), FEWEST_TOKENS)
    word_seconds, token_seconds = (
        probe.first_seconds / FEWEST_WORDS,
        probe.step_seconds or probe.first_seconds / FEWEST_WORDS,
    )

    def cost(plan):
        return plan.rounds * (
            word_seconds * (sum(plan.prompts) + DECODE_WORDS) + token_seconds * plan.tokens * (1 + sum(plan.clients))
        )

    plan = replace(whole, prompts=list(whole.prompts))
    while cost(plan) > seconds:
        plan.is_cut, plan.clients = True, ()
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
    """Random ones, so that no prompt begins as an earlier one did and lies in a cache; common ones, of about one
    token each.
    """
    return " ".join(source.choice(WORDS) for _ in range(count))


def _rate(server, phase: str, size: int, prompts: list[str]) -> float:
    """prompts: one for each client."""
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
