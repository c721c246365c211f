"""`bench --compare`: both kinds of servers by the client's clock, plans for slow ones, ratios round by round."""

import importlib.util
import json
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Lock, Thread

import pytest
from click.testing import CliRunner
from live_server import LiveServer, free_port, wait_for_port
from places import ROOT, SUPPORT
from starter_models import model_path
from tiny_gguf import write_tiny_gguf
from vulkan_drivers import missing

from vkbackend import settings
from vkbackend.bench.compare import FEWEST_TOKENS, FEWEST_WORDS, ServerPlan, compare, plan_for
from vkbackend.bench.peers import Peer, Sample, sample
from vkbackend.errors import VkbackendError
from vkbackend.server.cli.main import cli


class Steady:
    """A server that takes the same time for every word and token; `asked` records the requests."""

    def __init__(self, name, word_seconds, token_seconds):
        self.name, self.word_seconds, self.token_seconds = name, word_seconds, token_seconds
        self.asked = []

    def run(self, prompt, tokens):
        count = len(prompt.split())
        self.asked.append((prompt, tokens))
        return Sample(count, tokens, count * self.word_seconds, self.token_seconds if tokens > 1 else 0.0)


def test_sample_leaves_the_first_token_out_of_the_step():
    assert sample(10.0, [11.0, 11.5, 12.0, 12.5], 7) == Sample(7, 4, 1.0, 0.5)
    assert sample(10.0, [11.0], 7).step_seconds == 0


def test_rates_and_ratios():
    own, fast, slow = Steady("own", 0.01, 0.02), Steady("fast", 0.005, 0.01), Steady("slow", 0.02, 0.08)
    found = compare(own, [fast, slow], prompts=(20, 50), tokens=8, rounds=2)
    rates = {(line.phase, line.size, line.server): line for line in found.lines}
    assert {line.clients for line in found.lines} == {1}
    assert set(rates) == {
        (*size, name) for size in (("prefill", 20), ("prefill", 50), ("decode", 8)) for name in ("own", "fast", "slow")
    }
    assert rates["prefill", 50, "own"].rate.median == pytest.approx(100) and rates["prefill", 50, "own"].ratio is None
    assert rates["prefill", 50, "fast"].ratio.median == pytest.approx(0.5) and rates[
        "decode", 8, "slow"
    ].ratio.most == pytest.approx(4)
    assert rates["decode", 8, "slow"].rate.rounds == 2
    measured = [prompt for prompt, _ in own.asked]
    assert len(set(measured)) == len(measured)  # no prompt twice: a cache would answer it
    assert (
        measured == [prompt for prompt, _ in fast.asked][2:]
    )  # the same ones to all, after the two that planning takes


def test_of_several_peers_with_one_name_the_better_counts():
    peers = [Steady("cpu", 0.01, 0.5), Steady("cpu", 0.03, 0.1)]
    lines = [
        line
        for line in compare(Steady("own", 0.01, 0.1), peers, prompts=(20,), tokens=4, rounds=1).lines
        if line.server == "cpu"
    ]
    assert [round(line.rate.median) for line in lines] == [100, 10]


def test_slow_peers_get_fewer_tokens_and_so_do_we():
    slow = Steady("slow", 0.3, 0.5)
    plan = plan_for(slow, ServerPlan([16, 128, 512], 64, 3, (4,)), 60)
    assert plan.is_cut and plan.rounds * (0.3 * (sum(plan.prompts) + 4) + 0.5 * plan.tokens) <= 60
    assert plan.prompts[0] == 16 and plan.tokens >= FEWEST_TOKENS and all(clients == 1 for _, _, clients in plan.sizes)
    own = Steady("own", 0.001, 0.001)
    sizes = {
        (line.phase, line.size)
        for line in compare(own, [slow], prompts=(16, 128), tokens=64, rounds=3, peer_seconds=60).lines
        if line.server == "own"
    }
    assert {("prefill", 16), ("prefill", 128), ("decode", 64), ("decode", plan.tokens)} <= sizes
    whole = ServerPlan([16, 128], 64, 3, (4,))
    assert plan_for(Steady("fast", 1e-4, 1e-4), whole, 60) == whole
    said = []
    lines = compare(
        own, [Steady("asleep", 20, 20)], prompts=(16,), tokens=8, rounds=1, peer_seconds=60, say=said.append
    ).lines
    assert {line.server for line in lines} == {"own"} and "asleep: left out" in said[0]
    hopeless = plan_for(Steady("hopeless", 10, 10), ServerPlan([128], 64, 3), 60)
    assert (hopeless.prompts, hopeless.tokens, hopeless.rounds) == ([FEWEST_WORDS], FEWEST_TOKENS, 1)


def test_clients_that_ask_at_the_same_time():
    class OneByOne(Steady):
        """Takes 50 ms for each answer, however many requests there are."""

        lock = Lock()

        def run(self, prompt, tokens):
            with self.lock:
                time.sleep(0.05)
            return super().run(prompt, tokens)

    class Together(OneByOne):
        @property
        def lock(self):
            return Lock()

    lines = compare(
        OneByOne("one by one", 0.01, 0.01),
        [Together("together", 0.01, 0.01)],
        prompts=(16,),
        tokens=8,
        rounds=1,
        clients=(1, 4),
    ).lines
    rates = {line.server: line.rate.median for line in lines if line.clients == 4}
    assert rates["one by one"] == pytest.approx(4 * 8 / 0.2, rel=0.2) and rates["together"] > 2 * rates["one by one"]


def test_a_model_that_ends_at_once_is_not_taken_for_a_rate():
    class Silent(Steady):
        def run(self, prompt, tokens):
            return Sample(4, 1, 0.1, 0.0)

    with pytest.raises(VkbackendError, match="silent ends its answers after one token"):
        compare(Steady("own", 0.01, 0.01), [Silent("silent", 0, 0)], prompts=(16,), tokens=4, rounds=1)


def test_nothing_there():
    with pytest.raises(VkbackendError, match="is a server running there"):
        Peer(f"http://127.0.0.1:{free_port()}")


def test_what_a_server_refuses_is_said():
    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"data": [{"id": "m"}]} if self.path == "/v1/models" else {}).encode()
            self.send_response(200 if self.path == "/v1/models" else 404)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(400 if body["max_tokens"] == 2 else 200)
            self.end_headers()
            self.wfile.write(
                b"no such parameter" if body["max_tokens"] < 4 else b'data: {"error": {"message": "out of memory"}}\n\n'
            )

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuses)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        peer = Peer(f"http://127.0.0.1:{server.server_port}")
        assert (peer.kind, peer.model) == ("openai", "m")
        with pytest.raises(VkbackendError, match="rejects the request .400.: no such parameter"):
            peer.run("hello", 2)
        with pytest.raises(VkbackendError, match="does not send lines of JSON"):
            peer.run("hello", 3)
        with pytest.raises(VkbackendError, match="out of memory"):
            peer.run("hello", 4)
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def ollama(tmp_path_factory):
    """A server with Ollama's API: ours, on the CPU, with a tiny model `tiny`."""
    folder = tmp_path_factory.mktemp("models")
    gguf = write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    with LiveServer(
        folder, environment={"OLLAMA_VULKAN": "0", "VKBACKEND_CACHE": str(settings.cache_folder())}
    ) as live:
        created = subprocess.run(
            [sys.executable, "-m", "vkbackend", "create", "tiny", "--gguf", str(gguf)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=live._environment | {"OLLAMA_HOST": live.url},
        )
        assert created.returncode == 0, created.stderr
        yield live, gguf


def test_a_server_of_ollamas_api(ollama):
    live, gguf = ollama
    result = CliRunner().invoke(
        cli,
        [
            "bench",
            str(gguf),
            "--cpu",
            "--compare",
            f"them={live.url}",
            "--remote-model",
            "tiny",
            "--prompt",
            "5,9",
            "--tokens",
            "6",
            "--rounds",
            "2",
            "--json",
        ],
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    lines = {(line["phase"], line["size"], line["server"]): line for line in found["lines"]}
    assert found["own"] == "vkbackend" and len(lines) == 6
    for size in (("prefill", 5), ("prefill", 9), ("decode", 6)):
        ours, theirs = lines[*size, "vkbackend"], lines[*size, "them"]
        assert (
            ours["ratio"] is None
            and theirs["rate"]["rounds"] == 2
            and theirs["ratio"]["least"] <= theirs["ratio"]["median"] <= theirs["ratio"]["most"]
        )

        assert theirs["ratio"]["least"] > 0 and ours["rate"]["median"] > 0


def test_both_through_http_as_text(ollama):
    live, gguf = ollama
    result = CliRunner().invoke(
        cli,
        [
            "bench",
            str(gguf),
            "--own",
            f"us={live.url}",
            "--compare",
            f"them={live.url}",
            "--remote-model",
            "tiny",
            "--prompt",
            "5",
            "--tokens",
            "6",
            "--rounds",
            "1",
            "--clients",
            "1,3",
        ],
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == ["SERVER", "TOKENS/S", "US", "/", "SERVER", "ROUNDS"]
    assert [line.split()[:3] for line in result.stdout.splitlines()[1:]] == [
        ["prefill", "5", "us"],
        ["prefill", "5", "them"],
        ["decode", "6", "us"],
        ["decode", "6", "them"],
        ["decode", "6,", "3"],
        ["decode", "6,", "3"],
    ]


def test_a_server_of_openais_api():
    if importlib.util.find_spec("xllamacpp") is None:
        missing("xllamacpp is not installed (bash scripts/setup.sh --tests)")
    model, port = model_path("smollm2"), free_port()
    process = subprocess.Popen(
        [sys.executable, str(SUPPORT / "llama_cpp_server.py"), str(model), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.stdout.readline()
        wait_for_port(port, process)
        peer = Peer(f"http://127.0.0.1:{port}")
        assert peer.kind == "openai" and peer.model
        answer = peer.run("time year people way day", 6)
        assert (answer.prompt_tokens, answer.tokens) == (5, 6) and answer.first_seconds > 0 and answer.step_seconds > 0
        assert peer.run("time year people way day", 1).tokens == 1
    finally:
        process.stdin.close()
        process.wait(20)
