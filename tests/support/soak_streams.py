"""Many concurrent streams against `vkbackend serve`, some of whose clients leave: errors, leaks, and how late the
event loop is.

    python tests/support/soak_streams.py --seconds 60 --streams 64

In: a starter model. Out: figures as JSON. The exit status is 1 where an error came, a page or a sequence stayed in
use, memory grew by more than MOST_GROWTH_BYTES, or the event loop was later than 50 ms in more than one of a hundred
looks.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from live_server import free_port, wait_for_port
from places import ROOT
from prometheus_client.parser import text_string_to_metric_families
from starter_models import model_path

LEAVING = 0.2  # of the clients, in mid-stream
LAG_BAR = 0.05  # seconds, of 99 in 100 looks
MOST_GROWTH_BYTES = 48 << 20
SETTLE_SECONDS = 20
WORDS = (
    "the fox ran over a hill to see what lay behind it and found an old house with two doors one of them open to "
    "the wind"
).split()


@dataclass
class Tally:
    whole: int = 0
    left: int = 0
    pieces: int = 0
    errors: list[str] = field(default_factory=list)


class Scrape:
    """Values of /metrics."""

    def __init__(self, text: str):
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def sum(self, name: str, **labels) -> float:
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
        )

    def lag(self) -> dict[float, float]:
        """Upper bound of a bucket in seconds -> looks that were no later."""
        return {
            float(sample.labels["le"]): sample.value
            for sample in self._samples
            if sample.name == "vkbackend_event_loop_lag_seconds_bucket"
        }


async def scrape(session, url) -> Scrape:
    async with session.get(url + "/metrics") as answer:
        return Scrape(await answer.text())


async def one_stream(session, url, rng: random.Random, tally: Tally):
    """One request, in one of three shapes; every fifth client leaves after some pieces."""
    prompt = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(3, 30)))
    length, leaves = rng.randrange(4, 24), rng.random() < LEAVING
    message = [{"role": "user", "content": prompt}]
    path, body = rng.choice(
        [
            ("/api/generate", {"prompt": prompt, "options": {"num_predict": length}, "logprobs": True}),
            ("/api/chat", {"messages": message, "options": {"num_predict": length}}),
            ("/v1/chat/completions", {"messages": message, "max_tokens": length, "stream": True}),
        ]
    )
    stay_for = rng.randrange(1, 4) if leaves else None
    try:
        async with session.post(url + path, json=body | {"model": "m"}) as answer:
            if answer.status != 200:
                tally.errors.append(f"{path}: {answer.status} {(await answer.text())[:200]}")
                return
            line, number = b"", 0
            async for line in answer.content:
                number += bool(line.strip())
                if number == stay_for:
                    tally.left += 1
                    answer.close()
                    return
                if b'"error"' in line:
                    tally.errors.append(f"{path}: {line[:200]!r}")
                if line.strip():
                    last = line
            tally.pieces += number
            ended = b"[DONE]" in last if path.startswith("/v1") else json.loads(last).get("done")
            if not ended:
                tally.errors.append(f"{path}: broke off after {last[:200]!r}")
            tally.whole += 1
    except (aiohttp.ClientError, OSError) as error:
        tally.errors.append(f"{path}: {type(error).__name__}: {error}")


async def clients(session, url, count: int, seconds: float, seed: int) -> Tally:
    """`count` clients, each with one stream after the other until the time is over."""
    tally, deadline = Tally(), time.monotonic() + seconds

    async def client(number):
        rng = random.Random(seed * 1000 + number)
        while time.monotonic() < deadline:
            await one_stream(session, url, rng, tally)

    await asyncio.gather(*(client(number) for number in range(count)))
    return tally


async def settled(session, url) -> Scrape:
    """The server at rest: what is in use when nobody asks for anything."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        found = await scrape(session, url)
        if found.sum("vkbackend_sequences") + found.sum("vkbackend_model_users") == 0 or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.2)


async def measure(url: str, streams: int, seconds: float) -> dict:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        warm = await clients(
            session, url, streams, min(seconds / 4, 10), seed=0
        )  # what is made on first use is no leak
        before = await settled(session, url)
        start = time.monotonic()
        tally = await clients(session, url, streams, seconds, seed=1)
        took = time.monotonic() - start
        after = await settled(session, url)
    looks = {bound: count - before.lag()[bound] for bound, count in after.lag().items()}
    total = looks[float("inf")]

    def late(share):
        return min(bound for bound, count in looks.items() if count >= share * total)

    tokens = after.sum("vkbackend_tokens_total", kind="generated") - before.sum(
        "vkbackend_tokens_total", kind="generated"
    )
    return {
        "streams": streams,
        "seconds": round(took, 1),
        "whole": tally.whole,
        "left_early": tally.left,
        "tokens_per_second": round(tokens / took, 1),
        "errors": (warm.errors + tally.errors)[:10],
        "num_errors": len(warm.errors) + len(tally.errors),
        "loop_looks": total,
        "loop_lag_p50_at_most": late(0.5),
        "loop_lag_p99_at_most": late(0.99),
        "pages": after.sum("vkbackend_cache_pages"),
        "pages_used_after": after.sum("vkbackend_cache_pages", state="used"),
        "sequences_after": after.sum("vkbackend_sequences"),
        "users_after": after.sum("vkbackend_model_users"),
        "growth_bytes": after.sum("process_resident_memory_bytes") - before.sum("process_resident_memory_bytes"),
        "more_open_files": after.sum("process_open_fds") - before.sum("process_open_fds"),
    }


def problems(figures: dict, lag_bar: float = LAG_BAR) -> list[str]:
    """What is not as it must be."""
    wrong = [f"{figures['num_errors']} errors: {figures['errors']}"] if figures["num_errors"] else []
    wrong += [
        f"{name}: {figures[name]}" for name in ("pages_used_after", "sequences_after", "users_after") if figures[name]
    ]
    if not figures["pages"]:
        wrong.append("the server does not tell its pages")
    if figures["growth_bytes"] > MOST_GROWTH_BYTES:
        wrong.append(f"memory grew by {figures['growth_bytes'] / (1 << 20):.0f} MiB")
    if figures["more_open_files"] > 5:
        wrong.append(f"{figures['more_open_files']:.0f} more open files")
    if figures["loop_lag_p99_at_most"] > lag_bar:
        wrong.append(f"the event loop was {figures['loop_lag_p99_at_most']} s late in one of a hundred looks")
    return wrong


def run(gguf: Path, streams: int, seconds: float, folder: Path) -> dict:
    """Serve a model in a process of its own, and measure it. What the server wrote is in `folder`/log."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    environment = os.environ | {
        "OLLAMA_VULKAN": "1",
        "OLLAMA_HOST": url,
        "OLLAMA_MODELS": str(folder / "models"),
        "OLLAMA_NUM_PARALLEL": "8",
        "OLLAMA_CONTEXT_LENGTH": "512",
        "VKBACKEND_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "vkbackend"]
    subprocess.run(
        [*command, "create", "m", "--gguf", gguf], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [*command, "serve"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=log
        )
        try:
            wait_for_port(port, process)
            return asyncio.run(measure(url, streams, seconds))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(model_path(arguments.model), arguments.streams, arguments.seconds, Path(folder))
    print(json.dumps(figures, indent=1))
    wrong = problems(figures)
    print("\n".join(wrong) or "all bars hold", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
