"""The page cache without a device: which pages are shared, kept and evicted; no page is lost or held twice."""

import random
import threading

import numpy as np
import pytest
from check_pages import check_pages
from fake_runner import FakeRunner, FakeTokenizer

from vkbackend.engine.engine import Engine
from vkbackend.engine.kv_cache import PagedCache
from vkbackend.engine.prefix_cache import Prefix
from vkbackend.engine.request import Failed, Finished, GenerationRequest, PromptLogprobs, SamplingOptions
from vkbackend.errors import OutOfMemory
from vkbackend.graph.cache_layout import LayerGroup, window_pages

GREEDY = SamplingOptions(temperature=0, repeat_penalty=1.0)


def store(cache, tokens, reuse=True):
    """A sequence that holds these tokens, and how many of them the cache knew."""
    sequence = cache.open(Prefix(tokens if reuse else []))
    known = sequence.length
    cache.extend(sequence, tokens[known:])
    cache.commit(sequence)
    return sequence, known


# -- sharing


def test_full_pages_are_shared_and_the_rest_is_not():
    cache = PagedCache(16, 4, 4, 8)
    first, _ = store(cache, list(range(10)))
    second, known = store(cache, list(range(8)) + [50, 51, 52])
    assert known == 8 and second.pages[:2] == first.pages[:2] and second.pages[2] != first.pages[2]
    check_pages(cache, [first, second])
    cache.close(first)
    assert len(cache.prefixes.unused) == 1  # what first ended with; the others are in use
    check_pages(cache, [second])
    cache.close(second)
    check_pages(cache, [])


def test_one_whole_page_of_a_page_in_use_is_not_written_to():
    """A text that differs from another one within a page computes that page itself."""
    cache = PagedCache(16, 4, 4, 8)
    first, _ = store(cache, list(range(12)))
    second, known = store(cache, [0, 1, 2, 3, 4, 5, 99, 98, 97])
    assert known == 4 and not set(second.pages[1:]) & set(first.pages)
    check_pages(cache, [first, second])


def test_an_end_that_nobody_uses_is_continued_in_place():
    cache = PagedCache(16, 4, 4, 8)
    first, _ = store(cache, list(range(10)))
    end = first.pages[2]
    cache.close(first)
    second, known = store(cache, [*range(10), 60, 61, 62])
    assert known == 10 and second.pages[2] == end
    check_pages(cache, [second])


def test_an_end_is_not_taken_where_more_would_be_lost_than_gained():
    cache = PagedCache(16, 8, 4, 8)
    for tokens in ([1, 2, 3, 4, 5, 6], [1, 2, 30, 40]):
        cache.close(store(cache, tokens)[0])
    sequence, known = store(cache, [1, 2, 30, 41])
    assert known == 3  # of the nearer of the two
    other, known = store(cache, [1, 2, 99])
    assert known == 0
    cache.close(sequence), cache.close(other)
    assert store(cache, [1, 2, 3, 4, 5, 6, 7])[1] == 6


def test_the_same_tokens_elsewhere_are_not_the_same():
    """A page is identified by the tokens before it, too."""
    cache = PagedCache(16, 4, 4, 8)
    cache.close(store(cache, [1, 2, 3, 4, 9, 9, 9, 9])[0])
    assert store(cache, [5, 6, 7, 8, 9, 9, 9, 9])[1] == 0
    assert store(cache, [9, 9, 9, 9])[1] == 0


def test_tokens_are_compared_where_their_hashes_are_equal():
    """Python's hash of an integer is its remainder modulo 2^61 - 1."""
    modulus = 2**61 - 1
    one, other = (1, 2, 3, 4), (1, 2 + modulus, 3, 4)
    assert hash(one) == hash(other)
    cache = PagedCache(16, 4, 4, 8)
    first, _ = store(cache, [*one, 5])
    second, known = store(cache, [*other, 5])
    assert known == 0 and not set(first.pages) & set(second.pages)
    cache.close(first), cache.close(second)
    assert store(cache, [*other, 6])[1] == 4


def test_sequences_on_their_own_leave_nothing_behind():
    cache = PagedCache(8, 4, 2, 4)
    alone = cache.open()
    cache.extend(alone, list(range(9)))
    cache.commit(alone)
    assert store(cache, list(range(9)))[1] == 0
    cache.truncate(alone, 3)
    assert len(alone.pages) == 1
    cache.close(alone)
    assert not any(known.page == alone for known in cache.prefixes.unused) and len(cache.free_pages) == 5


def test_shared_pages_cannot_be_cut():
    cache = PagedCache(8, 4, 2, 4)
    sequence, _ = store(cache, list(range(10)))
    with pytest.raises(
        ValueError, match="cannot truncate a sequence of 10 tokens to 7; 8 are in pages that others may use"
    ):
        cache.truncate(sequence, 7)
    cache.truncate(sequence, 8)
    check_pages(cache, [sequence])


# -- eviction


def test_the_least_recently_used_goes_first_and_its_end_before_its_beginning():
    cache = PagedCache(6, 4, 3, 6)
    for base in (10, 20, 30):
        cache.close(store(cache, list(range(base, base + 8)))[0])
    cache.close(store(cache, list(range(10, 18)))[0])  # used again: 20 is the oldest now
    assert not cache.free_pages
    new, _ = store(cache, [1, 2, 3])
    assert [len(cache.prefixes.find(Prefix(list(range(base, base + 8))))) for base in (10, 20, 30)] == [2, 1, 2]
    cache.extend(new, [4, 5])
    cache.commit(new)
    assert [len(cache.prefixes.find(Prefix(list(range(base, base + 8))))) for base in (10, 20, 30)] == [2, 0, 2]
    check_pages(cache, [new])


def test_an_end_that_is_stored_again_is_the_latest():
    cache = PagedCache(3, 4, 3, 3)
    first, second = store(cache, [10, 11])[0], store(cache, [10, 11])[0]
    third, _ = store(cache, [20, 21])
    for sequence in (first, third, second):
        cache.close(sequence)
    store(cache, [1, 2, 3, 4, 5, 6])  # the free page, and that of 20
    assert store(cache, [10, 11, 12])[1] == 2


def test_pages_in_use_never_go():
    cache = PagedCache(4, 4, 3, 6)
    first, _ = store(cache, list(range(8)))
    second, _ = store(cache, list(range(8)) + [9])
    with pytest.raises(OutOfMemory, match="the KV cache is full: 2 pages of 4 tokens needed, 1 of 4 not in use"):
        cache.extend(second, list(range(8)))
    assert second.length == 9
    check_pages(cache, [first, second])
    cache.close(first)
    with pytest.raises(OutOfMemory):
        cache.extend(second, list(range(8)))
    cache.close(second)
    assert store(cache, list(range(100, 116)))[1] == 0


def test_room_counts_known_pages_once():
    """A page that the new sequence reuses needs no room, but if it was unused, it is not available to others."""
    cache = PagedCache(4, 4, 3, 4)
    cache.close(store(cache, list(range(8)))[0])
    other, _ = store(cache, [50])
    assert cache.num_available == 3
    assert cache.has_room([(other, 3)], Prefix(list(range(8))), 12)
    assert not cache.has_room([(other, 4)], Prefix(list(range(8))), 12)
    assert cache.has_room([(other, 11)]) and not cache.has_room([(other, 16)])
    reused, known = store(cache, list(range(12)))
    assert known == 8 and not cache.has_room([(reused, 1)])


def windowed(windows, page_size, step_tokens, num_pages, num_sequences=5, num_snapshots=2):
    """Groups of layers as `CacheLayout` makes them."""
    shares = [window_pages(window, step_tokens, page_size) for window in windows]
    return [
        LayerGroup(window, (), share, min((num_sequences + num_snapshots) * share, num_pages))
        for window, share in zip(windows, shares)
    ]


@pytest.mark.parametrize("windows", [(), (3,), (1, 7)], ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_no_page_is_lost_whatever_happens(seed, windows):
    """Sequences with common beginnings open, grow, fail to grow and end in any order; what each finds in the cache
    is its own.
    """
    rng = random.Random(seed)
    num_pages, page_size = rng.choice([6, 12, 30]), rng.choice([1, 3, 4])
    cache = PagedCache(num_pages, page_size, 5, 6, windowed(windows, page_size, 8, num_pages))
    contents = [np.full((num_pages, page_size), -1) for _ in cache.tables]
    texts = [[rng.randrange(3) for _ in range(cache.page_size * 6)] for _ in range(4)]
    texts += [text[: rng.randrange(len(text))] + texts[0] for text in texts]
    numbers, sequences, num_reused, num_full = {}, {}, 0, 0

    def number_of(tokens):
        return numbers.setdefault(tuple(tokens), len(numbers))

    for _ in range(1500):
        if rng.random() < 0.3 and len(sequences) < 5:
            text = rng.choice(texts)[: cache.page_size * 6]
            sequence = cache.open(Prefix(text[: rng.randrange(len(text) + 1)]) if rng.random() < 0.8 else None)
            num_reused += sequence.length
            sequences[id(sequence)] = sequence, text
        elif sequences:
            sequence, text = sequences[rng.choice(sorted(sequences))]
            before = sequence.length
            if rng.random() < 0.25 or before == len(text):
                cache.close(sequence)
                del sequences[id(sequence)]
            else:
                more = text[before : before + rng.randrange(1, 9)]
                has_room = cache.has_room([(sequence, len(more))])
                try:
                    cache.extend(sequence, more)
                    cache.slide(sequence, sequence.length)
                except OutOfMemory:
                    num_full += 1
                    assert not has_room and sequence.length == before
                else:
                    assert has_room
                    if rng.random() < 0.1:  # the step failed
                        cache.truncate(sequence, before)
                    else:
                        for index in range(before, sequence.length):
                            for table, stored in zip(cache.tables, contents):
                                page = table.rows[sequence.slot, index // page_size]
                                stored[page, index % page_size] = number_of(sequence.tokens[: index + 1])
                        cache.commit(sequence)
        check_pages(cache, [sequence for sequence, _ in sequences.values()])
        for sequence, text in sequences.values():
            assert sequence.tokens == text[: sequence.length]
            for index in range(sequence.length):
                for window, table, stored in zip((0, *windows), cache.tables, contents):
                    if not window or index > sequence.length - window:
                        place = table.rows[sequence.slot, index // page_size], index % page_size
                        assert stored[place] == number_of(text[: index + 1])
    assert num_reused > 100 and (num_full or num_pages == 30), "the test tests nothing"
    for sequence, _ in sequences.values():
        cache.close(sequence)
    cache.forget()
    assert sorted(cache.free_pages) == list(range(num_pages))
    assert all(len(pool.free) == pool.num_pages for pool in cache.windows.pools)


# -- through the engine


def test_requests_that_come_and_go_at_random():
    """Clients with common beginnings, stop strings, scores and cancels at any point, on a cache that is too small
    for all: everyone gets the tokens it would get alone, and after each step every page is where it should be. Who
    gives way, and whether anybody must in one run, is a matter of the threads' time.
    """
    assert sum(requests_at_random(seed) for seed in range(6)) > 0, "nobody gave way in any run"


def requests_at_random(seed) -> int:
    """Returns how often a generation was preempted."""
    rng = random.Random(seed)
    tokenizer = FakeTokenizer()
    words = [tokenizer.id(f" w{index}") for index in range(60)]
    runner = FakeRunner(
        tokenizer,
        context_length=128,
        max_sequences=4,
        prefill_chunk=rng.choice([5, 16]),
        page_size=rng.choice([1, 4, 8]),
    )
    runner.pages = PagedCache(200 // runner.pages.page_size, runner.pages.page_size, 4, runner.pages.pages_per_sequence)
    runner.next_token = lambda tokens: words[(sum(tokens[-3:]) + len(tokens)) % 60]
    runner.after_step = lambda: check_pages(runner.pages, list(runner.sequences.values()))
    engine = Engine(runner, tokenizer)
    preempt, num_preempted = engine._preempt, []
    engine._preempt = lambda generation: (num_preempted.append(1), preempt(generation))
    systems = [[rng.choice(words) for _ in range(rng.randrange(4, 20))] for _ in range(3)]
    failures, ended, lock = [], {"cancelled": 0, "stop": 0, "length": 0}, threading.Lock()

    def expected(prompt, num_predict):
        tokens = list(prompt)
        while len(tokens) < len(prompt) + num_predict:
            tokens.append(runner.next_token(tokens))
        return tokens

    def client(rng):
        try:
            for _ in range(12):
                prompt = rng.choice(systems) + [rng.choice(words) for _ in range(rng.randrange(1, 12))]
                num_predict, leaves = rng.randrange(1, 128 - len(prompt)), rng.choice([None, None, rng.randrange(40)])
                stop = rng.choice([(), (), (), (" w7",)])
                request = GenerationRequest(
                    prompt, GREEDY, num_predict, stop, shift=False, prompt_logprobs=rng.random() < 0.2
                )
                whole, last = expected(prompt, num_predict), None
                for event in events(engine, request, leaves):
                    if isinstance(event, PromptLogprobs):
                        assert [entry.token_id for entry in event.logprobs] == prompt[1:]
                    last = event
                assert isinstance(last, Finished), last
                assert last.context == whole[: len(last.context)], "not the tokens that it gets alone"
                if last.reason == "length":
                    assert len(last.context) == len(whole)
                with lock:
                    ended[str(last.reason)] += 1
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=client, args=[random.Random(100 * seed + index)]) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures[0]
    assert sum(ended.values()) == 96 and min(ended.values()) > 0, ended
    engine.close()
    check_pages(runner.pages, [])
    assert len(runner.pages.free_pages) == runner.pages.num_pages and not runner.sequences
    return len(num_preempted)


def events(engine, request, leaves):
    """Yield the request's events. If `leaves` is a number, cancel after that many."""
    received, arrived = [], threading.Condition()

    def listener(event):
        with arrived:
            received.append(event)
            arrived.notify()

    handle = engine.submit(request, listener)
    number = 0
    while True:
        if number == leaves:
            handle.cancel()
        with arrived:
            assert arrived.wait_for(lambda least=number: len(received) > least, 30), "no event came"
        yield received[number]
        if isinstance(received[number], (Finished, Failed)):
            assert len(received) == number + 1
            return
        number += 1
