"""Layers with a window free the pages that no token sees any more, and snapshots tell from where a text can continue.

The fake runner checks in every step that all that its tokens see is where the page tables say.
"""

import threading

import numpy as np
import pytest
from check_pages import check_pages
from engine_world import until
from fake_runner import FakeTokenizer
from tiny_gguf import write_tiny_gguf

from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.kv_cache import PagedCache
from vkbackend.engine.prefix_cache import Prefix
from vkbackend.engine.runner import PAGE_SIZE, ModelRunner
from vkbackend.errors import OutOfMemory
from vkbackend.graph.cache_layout import LayerGroup
from vkbackend.loading import load

PAGE, WINDOW, CHUNK = 4, 12, 8
SHARE = 6  # pages of a window and a chunk: 11 + 8 positions touch at most six pages
SIZES = {"page_size": PAGE, "prefill_chunk": CHUNK, "max_part": CHUNK, "context_length": 128, "windows": (WINDOW, 0)}


def counting(tokens):
    """The next token of a text that counts up."""
    return tokens[-1] + 1


@pytest.fixture
def here(world):
    made = world(max_sequences=2, tokenizer=FakeTokenizer(vocab_size=20_000), **SIZES)
    made.runner.next_token = counting
    made.runner.after_step = lambda: check_pages(made.runner.pages, list(made.runner.sequences.values()))
    return made


def num_run(here, prompt, num_predict=4):
    """The number of the prompt's tokens that ran, those of the answer aside."""
    before = len(here.runner.steps)
    _, finished = here.run(prompt, num_predict=num_predict)
    assert finished.context == prompt + list(range(prompt[-1] + 1, prompt[-1] + 1 + num_predict))
    return sum(len(work.tokens) for step in here.runner.steps[before:] for work in step) - (num_predict - 1)


def answered(prompt, num_predict=4):
    """The cached context after a request: its last token was sampled but did not run."""
    return [*prompt, *range(prompt[-1] + 1, prompt[-1] + num_predict)]


def test_a_window_holds_its_pages_and_those_of_a_step(here):
    """The whole context of 100 tokens takes 25 pages; the window at most six while they run."""
    most = []
    pool = here.runner.pages.windows.pools[0]
    here.runner.after_step = lambda: most.extend(
        len(sequence.windows[0].pages) for sequence in here.runner.sequences.values()
    )
    assert num_run(here, list(range(1000, 1090)), 10) == 90
    assert max(most) == SHARE
    assert SHARE < pool.num_pages - len(pool.free) < 2 * SHARE, (
        "the ends of the prompt and of the answer, which overlap"
    )


def test_a_second_turn_runs_its_new_tokens_only(here):
    first = list(range(1000, 1050))
    assert num_run(here, first) == 50
    second = [*answered(first), *range(2000, 2009)]
    assert num_run(here, second) == 9
    third = [*answered(second), *range(3000, 3050)]
    assert num_run(here, third) == 50


def test_an_answer_that_is_written_again_runs_no_more_than_the_end_of_its_prompt(here):
    """Also if the answer was longer than a window, as of a client that leaves out what the model thought."""
    prompt = list(range(1000, 1050))
    num_run(here, prompt, 60)
    assert num_run(here, prompt, 30) == 2  # 48 tokens are in full pages, and the last token's logits are needed
    assert num_run(here, [*prompt, *range(2000, 2020)]) == 22


def test_an_edit_of_the_last_message_runs_what_follows_the_newest_snapshot(here):
    """The first turn ended after 53 tokens, of which 52 are in full pages. The page with the last one was continued."""
    first = list(range(1000, 1050))
    num_run(here, first)
    num_run(here, [*answered(first), *range(2000, 2040)])
    assert num_run(here, [*answered(first), *range(3000, 3040)]) == 40 + 1
    assert num_run(here, [*answered(first), *range(4000, 4005)]) == 5 + 1


def test_an_older_edit_runs_what_follows_an_older_snapshot_or_all(here):
    texts = [list(range(1000, 1030))]
    num_run(here, texts[0])
    for turn in range(2, 6):
        texts.append([*answered(texts[-1]), *range(1000 * turn, 1000 * turn + 10)])
        assert num_run(here, texts[-1]) == 10
    assert num_run(here, [*answered(texts[2]), *range(8000, 8010)]) <= 10 + PAGE
    here.runner.pages.windows.forget_all()
    edited = [*answered(texts[2]), *range(9000, 9010)]
    assert num_run(here, edited) == len(edited)
    assert num_run(here, [*answered(edited), 1, 2, 3]) == 3


def test_a_beginning_that_a_second_text_shares_is_kept_for_the_third(here):
    """The first text has left it. The second runs all of it again, and leaves a snapshot where the texts part."""
    system = list(range(1000, 1060))
    assert num_run(here, [*system, *range(2000, 2040)]) == 100
    assert num_run(here, [*system, *range(3000, 3040)]) == 100
    for base in range(4000, 7000, 1000):
        assert num_run(here, [*system, *range(base, base + 10)]) == 10


def test_a_short_beginning_is_kept_as_soon_as_a_second_text_shares_it(here):
    """Also after the texts that it was found in have lost their snapshots."""
    system = list(range(1000, 1016))
    assert num_run(here, [*system, *range(2000, 2004)], 1) == 20
    assert num_run(here, [*system, *range(3000, 3040)]) == 40
    assert len(here.runner.pages.windows.snapshots) == 4, "two texts, the end of the second prompt, and where they part"
    assert num_run(here, [*system, *range(4000, 4010)]) == 10


def test_the_least_recently_used_snapshot_goes_first(world):
    here = world(max_sequences=1, tokenizer=FakeTokenizer(vocab_size=20_000), **SIZES)
    here.runner.next_token = counting
    cache = here.runner.pages
    assert cache.windows.pools[0].num_pages == 4 * SHARE  # one sequence and three snapshots
    texts = [list(range(base, base + 29)) for base in range(1000, 4000, 1000)]
    for text in texts:
        num_run(here, text, 1)
    assert num_run(here, [*texts[0], 5], 1) == 1  # used again: the second is the oldest now
    for base in (4000, 5000):
        num_run(here, list(range(base, base + 29)), 1)
    held = {snapshot.known[0].tokens[0] // 1000 for snapshot in cache.windows.snapshots.values()}
    assert 2 not in held and held == {1, 3, 4, 5}
    assert num_run(here, [*texts[1], 5], 1) == 30
    check_pages(cache, [])


def test_a_prompt_that_another_request_is_running_is_not_run_twice(here):
    """The second joins the first at its newest point, as often as the first is ahead."""
    here.runner.gate = threading.Semaphore(0)
    prompt = list(range(1000, 1080))
    listeners = [here.start([*prompt, last], num_predict=1) for last in (5, 6)]
    until(lambda: here.engine.num_unfinished == 2)
    here.runner.gate.release(10_000)
    assert all(listener.wait().reason == "length" for listener in listeners)
    assert sum(len(work.tokens) for step in here.runner.steps for work in step) <= 80 + 2 * CHUNK
    assert len(here.runner.pages.windows.snapshots) <= 3, "one at the end of each text, and one where they part"


def test_preempted_texts_continue_where_they_stopped(world):
    here = world(max_sequences=3, num_pages=36, **SIZES)
    here.runner.next_token = counting
    here.runner.gate = threading.Semaphore(0)
    listeners = [here.start([base, base + 1], num_predict=70) for base in (1000, 2000, 3000)]
    until(lambda: here.engine.num_unfinished == 3)
    here.runner.gate.release(10_000)
    assert [listener.wait().context[-1] for listener in listeners] == [1071, 2071, 3071]
    widths = [len(step) for step in here.runner.steps]
    assert 3 in widths and 2 in widths[widths.index(3) :], "nobody gave way: the test tests nothing"


def test_a_shifted_context_runs_again(here):
    """From the second shift on, the tokens that are kept come from the cache."""
    _, finished = here.run(list(range(1000, 1100)), num_predict=80)
    assert finished.tokens == 80
    widths = [sum(len(work.tokens) for work in step) for step in here.runner.steps]
    assert sum(widths) > 200, "the context was not shifted"


# -- the cache alone


def cache_of(num_pages=32, window=WINDOW, share=SHARE, pool=24, max_sequences=2):
    return PagedCache(num_pages, PAGE, max_sequences, 32, [LayerGroup(window, (0,), share, pool)])


def store(cache, sequence, tokens, chunk=CHUNK):
    for first in range(0, len(tokens), chunk):
        cache.extend(sequence, tokens[first : first + chunk])
        cache.slide(sequence, sequence.length)
        cache.commit(sequence)


def test_a_sequence_can_be_cut_as_far_as_its_window_reaches():
    cache = cache_of()
    sequence = cache.open()
    store(cache, sequence, list(range(60)))
    kept = sequence.windows[0].first * PAGE
    with pytest.raises(ValueError, match=f"to 40; its layers with a window keep what follows {kept + WINDOW - 1}"):
        cache.truncate(sequence, 40)
    cache.truncate(sequence, kept + WINDOW - 1)
    store(cache, sequence, list(range(30)))
    check_pages(cache, [sequence])
    cache.truncate(sequence, 0)
    store(cache, sequence, list(range(50)))
    check_pages(cache, [sequence])
    cache.close(sequence)
    assert len(cache.windows.pools[0].free) == 24


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_step_of_several_parts_that_fails_keeps_what_it_must(is_shared):
    """The third part of 24 tokens fails. The window before the first part is gone, so its tokens stay."""
    cache = cache_of()
    sequence = cache.open(Prefix([]) if is_shared else None)
    store(cache, sequence, list(range(20)))
    cache.extend(sequence, list(range(20, 44)))
    for length in (28, 36, 44):
        cache.slide(sequence, length)
    cache.undo(sequence, 20)
    assert 20 < sequence.length <= 36 and sequence.tokens == list(range(sequence.length))
    check_pages(cache, [sequence])
    store(cache, sequence, list(range(50, 70)))
    cache.close(sequence)
    check_pages(cache, [])


def test_a_step_of_one_part_that_fails_changes_nothing():
    cache = cache_of()
    sequence = cache.open(Prefix([]))
    store(cache, sequence, list(range(45)))
    for length in range(45, 53):
        cache.extend(sequence, [7] * (length - 44))
        cache.slide(sequence, sequence.length)
        cache.undo(sequence, 45)
        assert sequence.length == 45
        check_pages(cache, [sequence])


def test_pages_that_are_evicted_take_their_snapshot_with_them():
    cache = cache_of(num_pages=16)
    for base in (100, 200):
        sequence = cache.open(Prefix([]))
        store(cache, sequence, list(range(base, base + 30)))
        cache.close(sequence)
    sequence = cache.open(Prefix([]))
    store(cache, sequence, list(range(40)))
    check_pages(cache, [sequence])
    assert cache.num_known(Prefix(list(range(100, 130)))) == 0
    cache.close(sequence)
    cache.forget()
    assert len(cache.free_pages) == 16 and len(cache.windows.pools[0].free) == 24


def test_the_room_of_a_text_counts_what_it_can_continue_from_only():
    """Pages of the whole context whose window is gone are computed again."""
    cache = cache_of(num_pages=16, max_sequences=3)
    first = cache.open(Prefix([]))
    store(cache, first, list(range(48)))
    assert cache.has_room([], Prefix(list(range(48))), 60)
    assert not cache.has_room([], Prefix(list(range(20))), 60)
    with pytest.raises(OutOfMemory):
        cache.extend(cache.open(Prefix(list(range(20)))), list(range(60)))


def test_a_page_table_tells_which_rows_changed():
    cache = cache_of()
    sequence, other = cache.open(), cache.open()
    store(cache, sequence, [1, 2, 3])
    before = [table.versions.copy() for table in cache.tables]
    store(cache, sequence, [4])
    assert [table.versions for table in cache.tables] == before, "no new page, no change"
    store(cache, sequence, [5])
    for table, versions in zip(cache.tables, before):
        assert table.versions[sequence.slot] > versions[sequence.slot]
        assert table.versions[other.slot] == versions[other.slot]


# -- the search of the prefix


class CountedTokens(list):
    """A list that counts the tokens that are copied from it."""

    copied = 0

    def __getitem__(self, index):
        found = super().__getitem__(index)
        self.copied += len(found) if isinstance(index, slice) else 1
        return found


@pytest.mark.parametrize("windowed", [[], [LayerGroup(WINDOW, (0,), SHARE, 24)]], ids=["whole", "windows"])
def test_a_search_continues_where_it_ended(windowed):
    """A long prompt that runs in chunks is compared once, not from its beginning for each chunk."""
    num_tokens = 4000
    cache = PagedCache(num_tokens // PAGE, PAGE, 2, num_tokens // PAGE, windowed)
    tokens = CountedTokens(range(num_tokens))
    prefix = Prefix(tokens)
    sequence = cache.open(prefix)
    for first in range(0, num_tokens, CHUNK):
        assert cache.num_known(prefix, first) <= first
        store(cache, sequence, list(range(first, first + CHUNK)))
    assert tokens.copied <= 3 * num_tokens
    before = tokens.copied
    assert cache.num_known(prefix, num_tokens - PAGE) == num_tokens and tokens.copied - before <= 2 * PAGE


@pytest.mark.parametrize("windowed", [[], [LayerGroup(WINDOW, (0,), SHARE, 24)]], ids=["whole", "windows"])
def test_a_prompt_that_waits_for_room_is_not_searched_in_each_turn(windowed):
    num_tokens = 4000
    cache = PagedCache(num_tokens // PAGE + 40, PAGE, 2, num_tokens // PAGE, windowed)
    running = cache.open(Prefix([]))
    store(cache, running, list(range(num_tokens - CHUNK)))
    tokens = CountedTokens([*range(num_tokens - CHUNK), *range(100)])
    waiting = Prefix(tokens)
    for _ in range(50):
        assert cache.has_room([(running, CHUNK)], waiting, len(tokens))
        assert not cache.has_room([(running, CHUNK)], waiting, 2 * len(tokens))
    assert tokens.copied <= num_tokens + 50 * 3 * PAGE


def test_a_page_can_be_printed_at_any_depth():
    cache = PagedCache(2000, PAGE, 1, 2000)
    sequence = cache.open(Prefix([]))
    store(cache, sequence, list(range(8000)))
    assert repr(sequence.known[-1]).startswith("KnownPage(page=1999, tokens=(7996, 7997, 7998, 7999)")


def test_a_search_forgets_pages_that_were_dropped():
    cache = PagedCache(8, PAGE, 2, 8)
    prefix = Prefix(list(range(24)))
    for base in (0, 100):
        sequence = cache.open(Prefix([]))
        store(cache, sequence, list(range(base, base + 20)))
        cache.close(sequence)
        assert cache.num_known(prefix) == (20 if base == 0 else 12)
    sequence = cache.open(prefix)
    assert sequence.tokens == list(range(12))
    store(cache, sequence, list(range(12, 20)))
    assert cache.num_known(prefix) == 20


def test_only_changed_rows_of_a_page_table_are_copied(tmp_path, device):
    """A row of 131,072 tokens is 16 KiB."""
    runner = ModelRunner(load(write_tiny_gguf(tmp_path / "tiny.gguf"), device), context_length=96, max_sequences=2)
    first, second = runner.open_sequence(), runner.open_sequence()
    runner.step([SequenceWork(first, [5] * 3), SequenceWork(second, [5] * 3)])
    rows = runner.executor._step_buffers["page_table.0"].array(np.int32, runner.executor.table_shape)
    rows[:, 2] = 77
    runner.step([SequenceWork(first, [5] * 3)])
    assert rows[:, 2].tolist() == [77, 77], "nothing has changed"
    runner.step([SequenceWork(second, [5] * PAGE_SIZE)])
    slots = [runner.sequences[sequence].slot for sequence in (first, second)]
    assert rows[slots[0], 2] == 77 and rows[slots[1], 2] != 77
