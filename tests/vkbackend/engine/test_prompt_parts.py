"""Prompts with rows of embeddings on their way to the runner: what is refused, cut, scheduled and cached."""

import numpy as np
import pytest
from engine_world import GREEDY
from fake_runner import FakeRunner, FakeTokenizer

from vkbackend.engine.generation import Generation
from vkbackend.engine.prompt import EmbeddingPart, EmbeddingRow, PartLayout, lay_out
from vkbackend.engine.request import GenerationRequest, Purpose, SamplingOptions
from vkbackend.engine.scheduler import Scheduler
from vkbackend.errors import RequestError

WIDTH = 4


def part(count, digest=b"picture", **fields) -> EmbeddingPart:
    return EmbeddingPart(np.arange(count * WIDTH, dtype=np.float32).reshape(count, WIDTH), digest, **fields)


def generation(prompt, context_length=64, num_keep=0, **fields) -> Generation:
    tokenizer = FakeTokenizer()
    runner = FakeRunner(tokenizer, context_length=context_length, max_part=32)
    return Generation(GenerationRequest(prompt, GREEDY, num_keep=num_keep, **fields), None, tokenizer, runner)


# -- cells and their positions


def test_rows_are_equal_where_all_that_their_keys_depend_on_is_equal():
    positions = np.arange(3, dtype=np.int32)[:, None]
    same = [part(3, positions=positions), part(3, positions=positions.copy())]
    assert lay_out([7, same[0]])[0] == lay_out([7, same[1]])[0] and hash(lay_out(same[:1])[0][2])
    others = [
        part(3),
        part(3, b"other", positions=positions),
        part(3, positions=positions + 1),
        part(3, positions=positions, num_positions=1),
        part(3, positions=positions, is_whole=True),
        part(3, positions=positions.repeat(2, 1)),
        part(4, positions=np.arange(4)[:, None]),
    ]
    assert len({each.identity for each in [same[0], *others]}) == 1 + len(others)


@pytest.mark.parametrize("item", [1.7, True, "5", None, np.float32(2), np.array([3]), np.True_])
def test_what_is_neither_a_token_id_nor_a_part_is_named(item):
    with pytest.raises(RequestError, match="at position 3; it must hold token ids"):
        lay_out([7, part(2), item])


def test_tokens_alone_need_nothing_else():
    cells, parts = lay_out([3, np.int64(4), 5])
    assert cells == [3, 4, 5] and parts == PartLayout() and parts.inputs(0, 3) is None


def test_rows_that_are_like_tokens_are_only_placed():
    cells, parts = lay_out([1, 2, part(3), 4])
    assert [isinstance(cell, EmbeddingRow) for cell in cells] == [False, False, True, True, True, False]
    inputs = parts.inputs(1, 4)
    assert inputs.embedded_rows.tolist() == [1, 2] and inputs.rope_positions is None and inputs.limits is None
    np.testing.assert_array_equal(inputs.embeddings, part(3).rows[:2])
    assert parts.inputs(0, 2) is None and parts.inputs(5, 6) is None


def test_rows_of_a_whole_part_see_its_end():
    _, parts = lay_out([1, part(3, is_whole=True), 4, part(2, is_whole=True)])
    assert parts.inputs(0, 7).limits.tolist() == [0, 3, 3, 3, 4, 6, 6]
    assert parts.inputs(2, 4).limits.tolist() == [3, 3]
    assert parts.inputs(3, 4).limits is None  # the last row sees what a token sees


def test_what_follows_a_part_moves_on_by_its_positions():
    """One number for all axes, or up to four, the last of which stands for those that are not given."""
    grid = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]])
    _, parts = lay_out([9, part(4, positions=grid, num_positions=2), 9, part(2), 9, part(2, num_positions=5), 9, 9])
    expected = [[0] * 4, [1, 1, 1, 1], [1, 1, 2, 2], [1, 2, 1, 1], [1, 2, 2, 2]]
    expected += [[each] * 4 for each in (3, 4, 5, 6, 7, 8, 12, 13)]
    whole = parts.inputs(0, 13).rope_positions
    assert whole.tolist() == expected
    for first in range(1, 12):
        for last in range(first + 1, 14):
            np.testing.assert_array_equal(parts.inputs(first, last).rope_positions, whole[first:last])
    assert parts.inputs(0, 1) is None
    _, parts = lay_out([part(2, positions=np.array([[5], [3]]))])
    assert parts.inputs(0, 3).rope_positions.tolist() == [[5] * 4, [3] * 4, [2] * 4]


# -- what is refused


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"rows": np.zeros(4)}, r"embeddings have shape \(4,\); they must be"),
        ({"rows": np.zeros((0, 4))}, "they must be"),
        ({"rows": np.full((3, 4), np.nan)}, "embeddings must be finite numbers"),
        ({"digest": b""}, "embeddings need a digest"),
        ({"positions": np.zeros((2, 1), int)}, r"positions have shape \(2, 1\); 3 rows of embeddings need \(3, 1\) to"),
        ({"positions": np.zeros((3, 5), int)}, r"positions have shape \(3, 5\)"),
        ({"positions": np.zeros(3, int)}, r"positions have shape \(3,\)"),
        ({"positions": np.full((3, 1), -1)}, "positions of embeddings must be 0 to 16777215"),
        ({"positions": np.full((3, 1), 1 << 24)}, "positions of embeddings must be 0 to 16777215"),
        ({"positions": np.full((3, 1), (1 << 32) + 1)}, "positions of embeddings must be 0 to 16777215"),
        ({"positions": np.full((3, 1), 1.7)}, "positions of embeddings are float64; they must be integers"),
        ({"positions": [[1], [1, 2], [3]]}, "positions of embeddings must be an array"),
        ({"rows": np.full((3, 4), 1e300)}, "embeddings must be finite numbers"),
        ({"rows": np.full((3, 4), 1j)}, "embeddings are complex128; they must be real numbers"),
        ({"rows": [["a"]]}, "embeddings are <U1; they must be real numbers"),
        ({"num_positions": 0}, "num_positions is 0; it must be an integer from 1 to 16777215"),
        ({"num_positions": 1.5}, "num_positions is 1.5; it must be an integer"),
    ],
)
def test_a_part_that_cannot_be_is_refused(fields, message):
    with pytest.raises(RequestError, match=message):
        EmbeddingPart(**{"rows": np.zeros((3, 4)), "digest": b"x", **fields})


@pytest.mark.parametrize(
    "prompt, fields, message",
    [
        ([1, EmbeddingPart(np.zeros((2, 6)), b"x")], {}, "embeddings are 6 wide; the model takes 4"),
        ([part(65)], {}, "65 rows of embeddings exceed the context length of 64; raise num_ctx"),
        ([part(17)], {"num_ctx": 16}, "17 rows of embeddings exceed the context length of 16"),
        ([part(33, is_whole=True)], {}, "33 rows of embeddings must run in one step, but a step holds at most 32 rows"),
        ([1, part(2)], {"purpose": Purpose.SCORE}, "a prompt with embeddings cannot be scored"),
        ([1, part(2)], {"prompt_logprobs": True}, "a prompt with embeddings cannot be scored"),
        ([part(2), 4096], {}, "token 4096 is not in the model's vocabulary of 4096"),
        ([part(60), 1, 2, 3, 4, 5], {"truncate": False}, "the input length exceeds the context length"),
        ([part(40), part(40)], {"num_keep": 30}, "the embeddings of the prompt do not fit the context length of 64"),
    ],
)
def test_a_prompt_that_cannot_run_is_refused_in_a_sentence(prompt, fields, message):
    with pytest.raises(RequestError, match=message):
        generation(prompt, **fields)


# -- cuts and shifts


def test_a_cut_drops_parts_as_a_whole():
    """Whichever end of the cut lies within one, and although more goes than had to."""
    picture = lay_out([part(20)])[0]
    tokens = list(range(2, 52))
    for place, kept in ((0, tokens), (2, tokens), (3, tokens), (40, tokens[:3] + tokens[9:40] + picture + tokens[40:])):
        prompt = [*tokens[:place], part(20), *tokens[place:]]
        found = generation(prompt, num_keep=3)
        assert found.tokens == (kept if place == 40 else [*tokens[: min(place, 3)], *tokens[min(place, 3) :]])
        assert found._parts.num_together(0) == 1 and len(found._parts.places) == (place == 40)
    assert found._parts.places[0].begin == 34


def test_a_full_context_drops_parts_as_a_whole():
    found = generation([2, 3, 4, part(20, is_whole=True), *range(5, 45)], num_keep=2)
    assert len(found.tokens) == 63
    found.tokens += [60, 61]
    assert found.context_is_full
    found.shift()
    assert found.tokens == [2, 3, *range(15, 45), 60, 61] and found._parts == PartLayout()
    found = generation([2, part(20, is_whole=True), 3, 4, *range(5, 45), 60], num_keep=4)
    found.tokens.append(61)
    found.shift()  # what is kept for good would end within the part
    assert found.tokens == [2, *range(16, 45), 60, 61] and found.num_keep == 1


# -- through the engine: scheduling, the cache


def prefill_shares(runner) -> list[list[int]]:
    """Tokens that each step ran of each sequence."""
    return [[len(item.tokens) for item in work] for work in runner.steps]


def test_a_step_never_ends_inside_a_whole_part(world):
    """FakeRunner refuses such a step. A part that is more than a chunk takes a step of its own."""
    here = world(prefill_chunk=8, page_size=4)
    prompt = [7] * 5 + [part(6, is_whole=True), part(10, b"large", is_whole=True), 8, part(12, b"loose"), 9]
    _, finished = here.run(prompt)
    assert prefill_shares(here.runner)[:6] == [[5], [6], [10], [8], [6], [1]]
    assert finished.prompt_tokens == 35 and finished.context[:7] == [7] * 5 + [8, 9]
    rows = sum(len(item.inputs.embedded_rows) for work in here.runner.steps for item in work if item.inputs)
    assert rows == 28


def test_a_whole_part_waits_for_a_step_that_it_begins():
    """Prompts take turns: what is left of a chunk goes to others, then the part is first."""
    scheduler, steps = Scheduler(chunk=8), []
    running = [generation([5] * 12), generation([6, 6, part(7, is_whole=True), 6]), generation([7] * 12)]
    while any(each.num_pending for each in running):
        shares = scheduler.next_step(running)
        for share in shares:
            share.generation.have_run(share.num_tokens)
        steps.append([(running.index(share.generation), share.num_tokens) for share in shares])
    assert steps == [[(0, 8)], [(1, 2), (2, 6)], [(0, 4), (2, 4)], [(1, 8)], [(2, 2)]]


def test_parts_are_found_in_the_cache_by_their_digest(world):
    here = world(page_size=4, num_pages=64, context_length=128)

    def num_run(prompt):
        before = len(here.runner.steps)
        here.run(prompt, num_predict=1)
        return sum(len(item.tokens) for work in here.runner.steps[before:] for item in work)

    prompt = [7] * 4 + [part(12, is_whole=True), 8, 9]
    assert num_run(prompt) == 18
    assert num_run([7] * 4 + [part(12, is_whole=True), 8, 9]) == 1
    assert num_run([7] * 4 + [part(12, b"other", is_whole=True), 8, 9]) == 14  # the tokens before it are known
    assert num_run([7] * 4 + [part(12, is_whole=False), 8, 9]) == 14


def test_a_sequence_that_shares_half_of_a_whole_part_runs_the_rest(world):
    """Rows 0 to 12 lie in full pages, the others in one with tokens that differ."""
    here = world(page_size=8, context_length=128)
    here.run([7] * 3 + [part(20, is_whole=True), *range(8, 12)], num_predict=1)
    here.runner.steps.clear()
    here.run([7] * 3 + [part(20, is_whole=True), *range(20, 40)], num_predict=1)
    item = here.runner.steps[0][0]
    assert item.tokens[0] == EmbeddingRow(part(20, is_whole=True).identity, 13) and len(item.tokens) == 27
    assert item.inputs.limits.tolist() == [22] * 7 + list(range(23, 43))


def test_generations_that_give_way_come_back(world):
    """Too few pages for both: the younger one starts again, and gets what it gets alone."""
    here = world([["ok"]], page_size=4, num_pages=30, context_length=96, max_sequences=2)
    words = [here.tokenizer.id(f" w{index}") for index in range(60)]
    here.runner.next_token = lambda tokens: words[len(tokens) % 60]
    prompts = [[5, part(20, bytes([number + 1]), is_whole=True, num_positions=3), 6] for number in range(2)]
    preempt, num_preempted = here.engine._preempt, []
    here.engine._preempt = lambda generation: (num_preempted.append(1), preempt(generation))
    alone = [here.run(prompt, num_predict=40)[0] for prompt in prompts]
    listeners = [here.start(prompt, num_predict=40) for prompt in prompts]
    for listener, text in zip(listeners, alone):
        assert listener.wait().tokens == 40 and listener.text == text
    assert num_preempted


def test_penalties_count_tokens_alone(world):
    here = world()
    options = SamplingOptions(temperature=0, repeat_penalty=1.3, repeat_last_n=-1)
    assert here.run([7, part(5), 8], options=options)[1].tokens == 2


def test_embeddings_come_of_prompts_with_parts(world):
    here = world()
    request = GenerationRequest([7, part(5), 8, 9, 10], GREEDY, purpose=Purpose.EMBEDDING)
    assert [type(event).__name__ for event in here.engine.generate(request)] == ["PromptEmbedding", "Finished"]
