"""The engine against a fake runner: requests that share its steps and its cache."""

import threading

import pytest
from engine_world import WAIT, Listener, until

from vkbackend.engine.request import Finished, Piece
from vkbackend.engine.scheduler import MAX_OVERTAKEN
from vkbackend.errors import OutOfMemory

# -- prefix reuse


def num_run(world, since=0):
    """Number of tokens that the steps from `since` on ran."""
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
    """The tokens of the first turn run once, wherever in a page it ends."""
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


def test_simultaneous_requests_compute_their_common_beginning_once(world):
    """Six prompts of 100 common tokens and 4 of their own: each finds what the one before it has stored, chunk by
    chunk.
    """
    here = world(max_sequences=6, page_size=8, prefill_chunk=32)
    here.runner.next_token = lambda tokens: 1
    here.runner.gate = threading.Semaphore(0)
    here.start([2, 3], num_predict=1)  # whose step holds the others up, so that they begin together
    system = list(range(100, 200))
    listeners = [here.start([*system, base, 6, 7, 8]) for base in range(10, 16)]
    here.runner.gate.release(1000)
    for listener in listeners:
        assert listener.wait().reason == "stop"
    # 96 of the 100 fill pages; each computes the rest itself. Beside the first chunks some begin before there is
    # anything to find.
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


# -- when pages run out


def counting(tokens):
    """The next token of a text that counts up."""
    return tokens[-1] + 1


def test_unused_pages_are_evicted(world):
    here = world(max_sequences=2, page_size=8, num_pages=4, context_length=32)
    here.runner.next_token = counting
    here.run(list(range(100, 120)), num_predict=1)
    _, finished = here.run(list(range(200, 220)), num_predict=8)
    assert (finished.tokens, finished.context[-1]) == (8, 227)


def test_the_youngest_is_preempted_and_resumes_later(world):
    """Three texts grow to 72 tokens in 20 pages of 8: two fit and the third must wait, with all tokens as if it were
    alone.
    """
    here = world(max_sequences=3, page_size=8, num_pages=20, context_length=128, prefill_chunk=32)
    here.runner.next_token = counting
    here.runner.gate = threading.Semaphore(0)
    listeners = [here.start([base, base + 1], num_predict=70) for base in (100, 200, 300)]
    until(lambda: here.engine.num_unfinished == 3)
    here.runner.gate.release(10_000)
    ends = [listener.wait() for listener in listeners]
    assert [end.context for end in ends] == [list(range(base, base + 72)) for base in (100, 200, 300)]
    widths = [len(step) for step in here.runner.steps]
    assert 3 in widths and 2 in widths[widths.index(3) :], "nobody gave way: the test tests nothing"
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
    for name, listener in (
        ("first", first),
        ("long", long_one),
        *((number, short) for number, short in enumerate(short_ones)),
    ):

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


def test_preempted_requests_resume_before_waiting_ones(world):
    here = world(max_sequences=2, page_size=8, num_pages=12, context_length=64)
    here.runner.next_token = counting
    here.runner.gate = threading.Semaphore(0)
    listeners = [here.start([base, base + 1], num_predict=60) for base in (100, 200, 300)]
    until(lambda: here.engine.num_unfinished == 3)
    here.runner.gate.release(10_000)
    assert [listener.wait().tokens for listener in listeners] == [60] * 3
    begun = [
        work.tokens[0] // 100
        for step in here.runner.steps
        for work in step
        if len(work.tokens) > 1 or work.tokens[0] % 100 < 2
    ]
    assert begun.count(2) > 1, "the second did not give way: the test tests nothing"
    assert begun.index(3) > max(index for index, number in enumerate(begun) if number == 2)


def test_a_cache_too_small_for_one_is_an_error(world):
    here = world(page_size=8, num_pages=2)
    with pytest.raises(
        OutOfMemory, match="the KV cache is full: 3 pages of 8 tokens needed, 2 of 2 not in use; use a smaller num_ctx"
    ):
        here.run(list(range(100, 120)))
    assert here.run([5, 6])[0] == "ok"
