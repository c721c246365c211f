"""The engine against a fake runner: many requests on one thread, and what happens when something goes wrong."""

import threading
import time

import numpy as np
import pytest
from fake_runner import FakeRunner, FakeTokenizer

from vkbackend.engine.engine import Engine
from vkbackend.engine.scheduler import MAX_OVERTAKEN
from vkbackend.engine.sequence import Failed, Finished, GenerationRequest, Piece, PromptLogprobs, SamplingOptions
from vkbackend.errors import DeviceError, DeviceLost, OutOfMemory, RequestError, VkbackendError

GREEDY = SamplingOptions(temperature=0, repeat_penalty=1.0)
WAIT = 20  # seconds after which a test gives up


class World:
    """A tokenizer, a runner and an engine over them; closed at the end of the test."""

    def __init__(self, replies=(("ok",),), **runner_options):
        self.tokenizer = FakeTokenizer()
        self.runner = FakeRunner(self.tokenizer, replies, **runner_options)
        self.engine = Engine(self.runner, self.tokenizer)

    def request(self, prompt="a prompt of five words", **fields):
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        return GenerationRequest(tokens, **{"options": GREEDY, **fields})

    def run(self, *arguments, **fields):
        """(text, Finished) of one request."""
        *pieces, finished = self.engine.generate(self.request(*arguments, **fields))
        assert all(isinstance(piece, Piece) for piece in pieces)
        return "".join(piece.text for piece in pieces), finished

    def start(self, *arguments, **fields):
        listener = Listener()
        listener.handle = self.engine.submit(self.request(*arguments, **fields), listener)
        return listener


class Listener:
    """Collects events; `wait` returns the last one."""

    def __init__(self):
        self.events, self._ended = [], threading.Event()

    def __call__(self, event):
        self.events.append(event)
        if isinstance(event, (Finished, Failed)):
            self._ended.set()

    def wait(self):
        assert self._ended.wait(WAIT), "no last event came"
        assert not any(isinstance(event, (Finished, Failed)) for event in self.events[:-1])
        return self.events[-1]

    @property
    def text(self):
        return "".join(event.text for event in self.events if isinstance(event, Piece))


@pytest.fixture
def world():
    worlds = []

    def make(*arguments, **options):
        worlds.append(World(*arguments, **options))
        return worlds[-1]

    yield make
    for made in worlds:
        if made.runner.gate:
            made.runner.gate.release(10_000)
        made.engine.close()
        assert not made.engine._thread.is_alive()
        assert made.runner.cached == {}, "the engine left sequences open"
        assert sorted(made.runner.pages.free_pages) == list(range(made.runner.pages.num_pages)), "the engine left pages in use"


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.001)


# -- one request


def test_reply_then_end_token(world):
    here = world([["Hel", "lo", "!"]])
    text, finished = here.run()
    assert text == "Hello!"
    assert finished.reason == "stop"
    assert (finished.prompt_tokens, finished.tokens) == (5, 4)  # the end token counts
    prompt = here.tokenizer.encode("a prompt of five words")
    assert finished.context == prompt + [here.tokenizer.id(piece) for piece in ("Hel", "lo", "!")]
    assert finished.prompt_seconds > 0 and finished.decode_seconds > 0


def test_num_predict(world):
    here = world([["a", "b", "c", "d"]])
    text, finished = here.run(num_predict=1)
    assert (text, finished.reason, finished.tokens, finished.decode_seconds) == ("a", "length", 1, 0.0)
    text, finished = here.run(num_predict=4)
    assert (text, finished.reason, finished.tokens) == ("abcd", "length", 4)
    text, finished = here.run(num_predict=5)
    assert (text, finished.reason, finished.tokens) == ("abcd", "stop", 5)


def test_without_num_predict_ten_contexts_are_the_end(world):
    here = world([["x%d" % index for index in range(200)]], context_length=16)
    for num_predict in (-1, 0, 161):
        _, finished = here.run(num_predict=num_predict)
        assert (finished.reason, finished.tokens) == ("length", 160)


def test_stop_string_across_tokens_cuts_text_and_logprobs(world):
    here = world([[" 8", " 9", " 1", "0", " 1", "1", " 12"]])
    pieces = list(here.engine.generate(here.request(stop=["0 11"], logprobs=True)))
    finished = pieces.pop()
    assert "".join(piece.text for piece in pieces) == " 8 9 1"
    assert [entry.text for piece in pieces for entry in piece.logprobs] == [" 8", " 9", " 1"]
    assert (finished.reason, finished.tokens) == ("stop", 6)
    assert here.tokenizer.decode(finished.context).endswith(b"words 8 9 1")


def test_characters_split_over_tokens(world):
    party = "🎉".encode()
    here = world([[party[:1], party[1:3], party[3:], b"\xe6"]])
    pieces = list(here.engine.generate(here.request(logprobs=True, top_logprobs=2)))[:-1]
    assert [piece.text for piece in pieces] == ["🎉", ""]
    assert [entry.bytes for piece in pieces for entry in piece.logprobs] == [party[:1], party[1:3], party[3:], b"\xe6"]
    assert all(len(entry.top) == 2 and entry.top[0].logprob == entry.logprob for piece in pieces for entry in piece.logprobs)


def test_logprobs_are_of_the_raw_logits(world):
    here = world([["a", "a"]])
    hot = SamplingOptions(temperature=5.0, top_k=1, repeat_penalty=3.0)
    entries = [entry for event in here.engine.generate(here.request(options=hot, logprobs=True)) if isinstance(event, Piece) for entry in event.logprobs]
    row = here.runner.row(here.tokenizer.id("a")).astype(np.float64)
    assert [entry.logprob for entry in entries] == pytest.approx([30 - np.log(np.exp(row).sum())] * 2, abs=1e-5)


def test_sampled_tokens_are_penalised(world):
    here = world([["a", "a", "a"]])
    text, _ = here.run([9, 10], options=SamplingOptions(temperature=0, repeat_penalty=30.0), num_predict=2)
    assert text == "a<s>"  # 30 / 30 is less than the next best's 2


def test_prompt_logprobs_come_first_and_cover_every_token_but_the_first(world):
    here = world(prefill_chunk=4)
    prompt = [5, 6, 6, 7, 7, 7, 8, 9, 3000, 3000]
    here.runner.next_token = lambda tokens: 1 if tokens == prompt else tokens[-1]
    for _ in range(2):  # the second time, the prompt is in the cache, and runs nevertheless
        first, *_, finished = here.engine.generate(here.request(prompt, prompt_logprobs=True, top_logprobs=1))
        assert isinstance(first, PromptLogprobs) and finished.reason == "stop"
        assert [entry.token_id for entry in first.logprobs] == prompt[1:]
        for before, entry in zip(prompt, first.logprobs):
            row = here.runner.row(before).astype(np.float64)
            assert entry.logprob == pytest.approx(row[entry.token_id] - np.log(np.exp(row).sum()), abs=1e-5)
            assert entry.top[0].token_id == before
    assert next(here.engine.generate(here.request([5], prompt_logprobs=True))).logprobs == []


def test_a_loop_of_equal_pieces_ends(world):
    here = world([[" blue"] * 31, [" blue"] * 40, ["red "] + [" red"] * 40, [" a", " b"] * 40])
    text, finished = here.run(num_predict=60)
    assert (text, finished.reason) == (" blue" * 31, "stop")  # 31 in a row may be meant
    text, finished = here.run(num_predict=60)
    assert (text, finished.reason) == (" blue" * 31, "length")
    text, finished = here.run(num_predict=60)
    assert (text.split(), finished.reason) == (["red"] * 31, "length")
    text, finished = here.run(num_predict=60)
    assert (len(text.split()), finished.reason) == (60, "length")


def test_a_constraint_decides_what_may_come(world):
    here = world([["no"]])
    yes = here.tokenizer.id("yes")

    class OnlyYesThenEnd:
        accepted = []

        def allowed(self):
            mask = np.zeros(here.runner.vocab_size, bool)
            mask[1 if self.accepted else yes] = True
            return mask

        def accept(self, token_id):
            self.accepted.append(token_id)

    text, finished = here.run(constraint=OnlyYesThenEnd())
    assert (text, finished.reason, OnlyYesThenEnd.accepted) == ("yes", "stop", [yes])


def test_requests_that_cannot_run(world):
    here = world()
    for request, message in [
        (here.request([]), "no tokens"),
        (here.request([5, 4096]), "token 4096 is not in"),
        (here.request([-1]), "token -1 is not in"),
        (here.request(top_logprobs=21), "between 0 and 20"),
        (here.request([5] * 9, num_ctx=8, truncate=False), "the input length exceeds the context length"),
    ]:
        with pytest.raises(RequestError, match=message):
            here.engine.submit(request, Listener())
    assert here.run()[0] == "ok"


# -- context


def test_a_long_prompt_loses_its_middle(world):
    here = world()
    tokens = list(range(2, 52))
    _, finished = here.run(tokens, num_ctx=16, num_keep=4)
    assert finished.prompt_tokens == 16
    assert finished.context[:16] == tokens[:4] + tokens[-12:]
    here.tokenizer.adds_bos = True  # which is kept besides
    _, finished = here.run([here.tokenizer.bos_id] + tokens, num_ctx=16, num_keep=4)
    assert finished.context[:16] == [here.tokenizer.bos_id] + tokens[:4] + tokens[-11:]
    _, finished = here.run(tokens, num_ctx=16, num_keep=-1)
    assert finished.context[:16] == tokens[:15] + tokens[-1:]


def test_a_full_context_drops_half_of_what_is_not_kept(world):
    here = world()
    reply = ["w%d" % index for index in range(12)]
    ids = [here.tokenizer.id(piece) for piece in reply]
    prompt = list(range(500, 510))
    here.runner.next_token = lambda tokens: ids[0] if tokens == prompt else dict(zip(ids, [*ids[1:], 1]))[tokens[-1]]
    held = []
    here.runner.after_step = lambda: held.append(list(*here.runner.cached.values()))
    text, finished = here.run(prompt, num_ctx=12, num_keep=4)
    assert (text, finished.reason, finished.tokens) == ("".join(reply), "stop", 13)
    # 12 places: 10 of the prompt, w0, w1; for w2 half of the 8 that are not kept go.
    assert [tokens for tokens in held if len(tokens) == 12] == [prompt + ids[:2], prompt[:4] + prompt[8:] + ids[:6],
                                                               prompt[:4] + ids[2:10]]
    assert held[-1] == prompt[:4] + ids[6:]


def test_without_shift_a_full_context_is_the_end(world):
    here = world([["w%d" % index for index in range(50)]])
    text, finished = here.run([9] * 13, num_ctx=32, shift=False)
    assert (finished.reason, finished.tokens) == ("length", 20)  # the last one needs no place
    assert text.endswith("w19")
    _, finished = here.run([9] * 32, num_ctx=32, shift=False)
    assert (finished.reason, finished.tokens) == ("length", 1)


def test_a_held_back_text_is_sent_when_the_context_is_full(world):
    here = world([["a", "b", "EN", "D"]])
    text, finished = here.run([9] * 6, num_ctx=8, shift=False, stop=["END"])
    assert (text, finished.reason) == ("abEN", "length")


# -- prefix reuse


def num_run(world, since=0):
    """How many tokens the steps from `since` on ran."""
    return sum(len(work.tokens) for step in world.runner.steps[since:] for work in step)


def test_a_conversation_runs_only_its_new_tokens(world):
    here = world([["Hello", " there"], ["fine"]])
    _, first = here.run("how are you")
    num_steps = len(here.runner.steps)
    weather = here.tokenizer.encode(" and the weather")
    following = first.context + weather
    _, second = here.run(following)
    assert list(here.runner.steps[num_steps][0].tokens) == weather
    assert second.prompt_tokens == len(following)  # all of them count


def test_the_second_turn_of_a_long_chat(world):
    """Whatever place in a page the first turn ends at, its tokens run once."""
    here = world([["w%d" % index for index in range(20)]], max_sequences=1, context_length=1200, page_size=32)
    for length in range(995, 1030, 7):
        here.engine.runner.forget()
        _, first = here.run(list(range(length)))
        num_steps = len(here.runner.steps)
        here.run(first.context + list(range(40)))
        assert num_run(here, num_steps) == 40 + 20  # its own 40, and the 20 it generates; nothing of the first turn's


def test_a_shared_beginning_runs_once_while_another_one_runs(world):
    here = world(max_sequences=3, page_size=8, prefill_chunk=64)
    here.runner.next_token = lambda tokens: 7
    here.runner.gate = threading.Semaphore(0)
    system = list(range(100, 160))
    first = here.start([*system, 5, 6], num_predict=50)
    here.runner.gate.release(3)
    until(lambda: len(here.runner.steps) == 3)
    num_steps = len(here.runner.steps)
    second = here.start([*system, 8, 9], num_predict=3)
    here.runner.gate.release(10_000)
    assert second.wait().reason == first.wait().reason == "length"
    prefill = max((work for step in here.runner.steps[num_steps:] for work in step), key=lambda work: len(work.tokens))
    assert list(prefill.tokens) == [*system[56:], 8, 9]  # 7 whole pages are shared, what begins the eighth runs again


def test_two_that_store_the_same_keep_one_copy(world):
    here = world(max_sequences=3, page_size=8)
    here.runner.next_token = lambda tokens: 7
    here.runner.gate = threading.Semaphore(0)
    here.start([2, 3], num_predict=1)  # whose step holds the two up, so that they begin together
    prompt = list(range(100, 140))
    listeners = [here.start(prompt, num_predict=4) for _ in range(2)]
    here.runner.gate.release(3)
    until(lambda: len(here.runner.steps) == 3)
    assert any([len(work.tokens) for work in step].count(40) == 2 for step in here.runner.steps)
    pages = [sequence.pages for sequence in here.runner.sequences.values()]
    assert pages[0][:5] == pages[1][:5]
    here.runner.gate.release(10_000)
    assert [listener.wait().tokens for listener in listeners] == [4, 4]


def test_those_who_come_together_compute_their_common_beginning_once(world):
    """Six prompts of 100 common tokens and 4 of their own: each finds what the one before it has stored, chunk by chunk."""
    here = world(max_sequences=6, page_size=8, prefill_chunk=32)
    here.runner.next_token = lambda tokens: 1
    here.runner.gate = threading.Semaphore(0)
    here.start([2, 3], num_predict=1)  # whose step holds the others up, so that they begin together
    system = list(range(100, 200))
    listeners = [here.start([*system, base, 6, 7, 8]) for base in range(10, 16)]
    here.runner.gate.release(1000)
    for listener in listeners:
        assert listener.wait().reason == "stop"
    # 96 of the 100 fill pages; each computes the rest itself. Beside the first chunks some begin before there is anything to find.
    assert num_run(here) <= 96 + 6 * (4 + 4) + 64


def test_an_equal_prompt_runs_its_last_token_again(world):
    here = world([["one"], ["two"]], page_size=32)
    prompt = list(range(10, 30))
    assert here.run(prompt)[0] == "one"
    num_steps = len(here.runner.steps)
    assert here.run(prompt)[0] == "two"
    assert list(here.runner.steps[num_steps][0].tokens) == prompt[-1:]


def test_another_conversation_does_not_take_a_page_for_its_first_tokens(world):
    here = world(max_sequences=2, page_size=32)
    start = [2, 3]
    one, two = (start + list(range(base, base + 20)) for base in (100, 200))
    here.run(one)
    num_steps = len(here.runner.steps)
    here.run(two)
    assert list(here.runner.steps[num_steps][0].tokens) == two
    num_steps = len(here.runner.steps)
    here.run(one)
    assert list(here.runner.steps[num_steps][0].tokens) == one[-1:]


# -- several requests


def test_many_requests_at_once(world):
    here = world(max_sequences=3, prefill_chunk=8)
    here.runner.next_token = lambda tokens: 1 if len(tokens) >= 40 else tokens[0] + len(tokens)
    prompts = [[100 * (index + 1)] * (3 + 5 * index) for index in range(7)]
    texts = {}

    def client(index):
        pieces = here.engine.generate(here.request(prompts[index], logprobs=True))
        texts[index] = [entry.token_id for piece in pieces if isinstance(piece, Piece) for entry in piece.logprobs]

    here.runner.gate = threading.Semaphore(0)  # until all of them are there
    threads = [threading.Thread(target=client, args=[index]) for index in range(7)]
    for thread in threads:
        thread.start()
    until(lambda: here.engine.num_unfinished == 7)
    here.runner.gate.release(10_000)
    for thread in threads:
        thread.join(WAIT)
    for index, prompt in enumerate(prompts):
        assert texts[index] == [prompt[0] + length for length in range(len(prompt), 40)]
    assert max(len(step) for step in here.runner.steps) == 3


def test_a_long_prompt_does_not_hold_up_decoding(world):
    here = world([["w%d" % index for index in range(30)], ["late"]], prefill_chunk=16)
    here.runner.gate = threading.Semaphore(0)
    decoding = here.start([5, 6])
    here.runner.gate.release(2)
    until(lambda: len(here.runner.steps) == 2 and decoding.events)
    long_one = here.start(list(range(100, 260)))
    here.runner.gate.release(1000)
    assert long_one.wait().reason == decoding.wait().reason == "stop"
    mixed = [step for step in here.runner.steps if len(step) == 2]
    assert len(mixed) >= 160 // 15
    for step in mixed:
        assert len(step[0].tokens) == 1 and step[0].outputs == 1  # a decode in every one
        assert sum(len(work.tokens) for work in step) <= 16


def test_prompts_take_turns(world):
    here = world(prefill_chunk=10)
    here.runner.gate = threading.Semaphore(0)
    long_one = here.start(list(range(100, 200)))
    until(lambda: here.runner.steps == [] and here.engine.num_unfinished == 1)
    short_one = here.start(list(range(300, 312)))
    here.runner.gate.release(1000)
    short_one.wait(), long_one.wait()
    ends = {}
    for number, step in enumerate(here.runner.steps):
        for work in step:
            if work.outputs:
                ends.setdefault(work.sequence_id, number)
    assert ends[2] < ends[1] - 3


def test_new_prompts_do_not_go_before_a_long_one_again_and_again(world):
    """A prompt of ten chunks ends although a new prompt of a chunk comes with every step."""
    here = world(prefill_chunk=8, max_sequences=3)
    here.runner.next_token = lambda tokens: 1
    number = iter(range(1000))

    def next_one(event):
        if isinstance(event, Finished) and not ended.is_set():
            here.engine.submit(here.request([500 + next(number)] * 8), next_one)

    ended = threading.Event()
    here.runner.gate = threading.Semaphore(0)
    long_one = here.start(list(range(100, 180)))
    for _ in range(4):
        here.engine.submit(here.request([500 + next(number)] * 8), next_one)
    here.runner.gate.release(80)
    until(lambda: long_one.events or len(here.runner.steps) == 80)
    ended.set()
    here.runner.gate.release(1000)
    assert long_one.wait().reason == "stop"
    assert next(index for index, step in enumerate(here.runner.steps) if 179 in [work.tokens[-1] for work in step]) < 40


def test_requests_beyond_the_slots_wait_their_turn(world):
    here = world([["a"], ["b"], ["c"]], max_sequences=1)
    here.runner.gate = threading.Semaphore(0)
    listeners = [here.start([5, index]) for index in (6, 7, 8)]
    here.runner.gate.release(1000)
    for listener in listeners:
        assert listener.wait().reason == "stop"
    assert [listener.text for listener in listeners] == ["a", "b", "c"]


# -- cancelling


def test_cancel_mid_stream(world):
    here = world([["w%d" % index for index in range(1000)], ["next"]], max_sequences=1)
    here.runner.gate = threading.Semaphore(5)
    listener = here.start([5, 6])
    until(lambda: len(listener.events) == 5)
    listener.handle.cancel()
    here.runner.gate.release(1000)
    finished = listener.wait()
    assert finished.reason == "cancelled"
    assert finished.tokens in (5, 6)  # a step may have been under way
    assert here.run()[0] == "next"


def test_cancel_while_waiting(world):
    here = world([["a", "b"], ["c"]], max_sequences=1)
    here.runner.gate = threading.Semaphore(0)
    running = here.start([5, 6])
    waiting = here.start([7, 8])
    waiting.handle.cancel()
    here.runner.gate.release(1000)
    assert (waiting.wait().reason, waiting.wait().tokens, waiting.text) == ("cancelled", 0, "")
    assert (running.wait().reason, running.text) == ("stop", "ab")
    waiting.handle.cancel()  # too late, and harmless
    assert here.run()[0] == "c"


def test_leaving_the_loop_cancels(world):
    here = world([["w%d" % index for index in range(3000)]], max_sequences=1)
    for event in here.engine.generate(here.request()):
        break
    until(lambda: here.engine.num_unfinished == 0)
    assert len(here.runner.steps) < 3000


def test_a_listener_that_raises_cancels_only_its_own(world):
    here = world([["w%d" % index for index in range(20)]], max_sequences=2)
    here.runner.gate = threading.Semaphore(0)
    good, calls = here.start([5, 6]), []

    def bad(event):
        calls.append(event)
        raise ValueError("no room for this event")

    here.engine.submit(here.request([7, 8]), bad)
    here.runner.gate.release(1000)
    assert good.wait().reason == "stop" and len(good.events) == 21
    until(lambda: here.engine.num_unfinished == 0)
    assert len(calls) == 1


# -- failing


def test_a_failing_step_fails_the_running_and_the_engine_goes_on(world):
    here = world([["a", "b", "c"]], max_sequences=2)
    here.runner.gate = threading.Semaphore(0)
    running = [here.start([5, 6]), here.start([7, 8])]
    waiting = here.start([9, 10])
    here.runner.gate.release(2)
    until(lambda: all(listener.events for listener in running))
    error = DeviceError("a submission failed")
    here.runner.fail_with = error
    here.runner.gate.release(1000)
    for listener in running:
        assert listener.wait().exception is error
    assert waiting.wait().reason == "stop" and waiting.text == "abc"
    assert here.engine.failure is None
    assert here.run()[0] == "abc"


def test_generate_raises_what_failed(world):
    here = world()
    here.runner.fail_with = DeviceError("a submission failed")
    with pytest.raises(DeviceError, match="a submission failed"):
        here.run()


def test_a_lost_device_ends_the_engine(world):
    here = world(max_sequences=1)
    here.runner.gate = threading.Semaphore(0)
    here.runner.fail_with = DeviceLost("the driver reset the device")
    running, waiting = here.start([5, 6]), here.start([7, 8])
    here.runner.gate.release(1000)
    assert isinstance(running.wait().exception, DeviceLost)
    assert isinstance(waiting.wait().exception, DeviceLost)
    assert isinstance(here.engine.failure, DeviceLost)
    with pytest.raises(DeviceLost, match="driver reset.*load the model again"):
        here.engine.submit(here.request(), Listener())


def test_logits_that_are_not_numbers_fail_their_own_generation(world):
    here = world([["a", "b", "c"]], max_sequences=2)
    plain = here.runner.row
    poison = here.tokenizer.id("poison")
    here.runner.row = lambda token_id: plain(token_id) * np.float32(np.nan if token_id == poison else 1)
    here.runner.next_token = lambda tokens: poison if tokens[0] == 5 and len(tokens) == 4 else 20 + len(tokens) if len(tokens) < 8 else 1
    bad, good = here.start([5, 6]), here.start([7, 8])
    assert "NaN" in str(bad.wait().exception)
    assert good.wait().reason == "stop"


# -- when pages run out


def counting(tokens):
    """The next token of a text that counts on from its last one."""
    return tokens[-1] + 1


def test_what_nobody_uses_gives_way(world):
    here = world(max_sequences=2, page_size=8, num_pages=4, context_length=32)
    here.runner.next_token = counting
    here.run(list(range(100, 120)), num_predict=1)
    _, finished = here.run(list(range(200, 220)), num_predict=8)
    assert (finished.tokens, finished.context[-1]) == (8, 227)


def test_the_youngest_gives_way_and_goes_on_later(world):
    """Three texts grow to 72 tokens in 20 pages of 8: two fit and the third must wait, with all tokens as if it were alone."""
    here = world(max_sequences=3, page_size=8, num_pages=20, context_length=128, prefill_chunk=32)
    here.runner.next_token = counting
    here.runner.gate = threading.Semaphore(0)
    listeners = [here.start([base, base + 1], num_predict=70) for base in (100, 200, 300)]
    until(lambda: here.engine.num_unfinished == 3)
    here.runner.gate.release(10_000)
    ends = [listener.wait() for listener in listeners]
    assert [end.context for end in ends] == [list(range(base, base + 72)) for base in (100, 200, 300)]
    widths = [len(step) for step in here.runner.steps]
    assert 3 in widths and 2 in widths[widths.index(3):], "nobody gave way: the test tests nothing"
    opened = [min(work.tokens) // 100 for step in here.runner.steps for work in step if len(work.tokens) > 1]
    assert opened[:3] == [1, 2, 3] and set(opened[3:]) <= {3}, "only the one admitted last may have given way"


def test_a_long_prompt_waits_for_room_and_short_ones_pass_it_a_few_times(world):
    here = world(max_sequences=3, page_size=8, num_pages=22, context_length=128)
    here.runner.next_token = counting
    here.runner.gate = threading.Semaphore(0)
    first = here.start([100, 101], num_predict=100)
    here.runner.gate.release(30)
    until(lambda: len(here.runner.steps) == 30)
    long_one = here.start(list(range(1000, 1120)), num_predict=2)
    short_ones = [here.start([base, base + 1], num_predict=3) for base in range(200, 2000, 100)]
    order = []
    for name, listener in (("first", first), ("long", long_one), *((number, short) for number, short in enumerate(short_ones))):
        def note(event, name=name, listener=listener):
            Listener.__call__(listener, event)
            if isinstance(event, Finished):
                order.append(name)
        listener.handle._generation._listener = note
    here.runner.gate.release(10_000)
    for listener in (first, long_one, *short_ones):
        assert listener.wait().reason == "length"
    assert order.index("long") < order.index(MAX_OVERTAKEN), "more passed the long prompt than may"
    assert order.index(0) < order.index("first") < order.index("long"), "short ones that fit need not wait"


def test_who_gave_way_goes_on_before_those_who_wait(world):
    here = world(max_sequences=2, page_size=8, num_pages=12, context_length=64)
    here.runner.next_token = counting
    here.runner.gate = threading.Semaphore(0)
    listeners = [here.start([base, base + 1], num_predict=60) for base in (100, 200, 300)]
    until(lambda: here.engine.num_unfinished == 3)
    here.runner.gate.release(10_000)
    assert [listener.wait().tokens for listener in listeners] == [60] * 3
    begun = [work.tokens[0] // 100 for step in here.runner.steps for work in step if len(work.tokens) > 1 or work.tokens[0] % 100 < 2]
    assert begun.count(2) > 1, "the second did not give way: the test tests nothing"
    assert begun.index(3) > max(index for index, number in enumerate(begun) if number == 2)


def test_a_cache_too_small_for_one_is_an_error(world):
    here = world(page_size=8, num_pages=2)
    with pytest.raises(OutOfMemory, match="the KV cache is full: 3 pages of 8 tokens needed, 2 of 2 not in use; use a smaller num_ctx"):
        here.run(list(range(100, 120)))
    assert here.run([5, 6])[0] == "ok"


# -- closing


def test_close_cancels_and_refuses(world):
    here = world([["w%d" % index for index in range(1000)]], max_sequences=1)
    here.runner.gate = threading.Semaphore(3)
    running, waiting = here.start([5, 6]), here.start([7, 8])
    until(lambda: len(running.events) == 3)
    closing = threading.Thread(target=here.engine.close)
    closing.start()
    until(lambda: here.engine._closing)
    here.runner.gate.release(1000)
    closing.join(WAIT)
    assert running.wait().reason == waiting.wait().reason == "cancelled"
    with pytest.raises(VkbackendError, match="closed"):
        here.engine.submit(here.request(), Listener())


def test_an_idle_engine_uses_no_time(world):
    here = world()
    here.run()
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


def test_a_listener_may_submit_and_close(world):
    here = world([["a"], ["b"]])
    second = Listener()

    def first(event):
        if isinstance(event, Finished):
            here.engine.submit(here.request([7, 8]), second)

    here.engine.submit(here.request([5, 6]), first)
    assert second.wait().reason == "stop" and second.text == "b"
    here.engine.submit(here.request([9, 10]), lambda event: here.engine.close())
    here.engine._thread.join(WAIT)
    assert not here.engine._thread.is_alive()
