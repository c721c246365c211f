"""Prompts with rows of embeddings on models: on the twins, on ggml, on a device, and on twins and device in one."""

from functools import partial

import numpy as np
import pytest
from cpu_programs import require_ggml
from engine_world import Listener
from fake_runner import FakeTokenizer
from plain_forward import forward
from tiny_gguf import ARCHITECTURES, HEAD_DIM, WIDTH, write_tiny_gguf

from vkbackend import loading
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.engine import Engine
from vkbackend.engine.prefix_cache import Prefix
from vkbackend.engine.prompt import EmbeddingPart, lay_out
from vkbackend.engine.request import GenerationRequest, Piece, SamplingOptions
from vkbackend.engine.runner import ModelRunner
from vkbackend.errors import RequestError
from vkbackend.graph.parts import LayerSpan
from vkbackend.models import decoder
from vkbackend.models.blocks import Rope

AXES = np.arange(HEAD_DIM // 2) % 3
NUM_LAYERS = {"llama": 2, "gemma3": 6}  # gemma3's sixth layer sees everything, the others a window
PLACES = ("twins", "ggml", "device", "split")  # split: the first layer on the device, the others on the twins
WITH_BITS = ("device", "two on device", "ggml")  # where each sum has one order; numpy's depends on the shapes
TOKENS = [int(token) for token in np.random.default_rng(1).integers(3, 200, 60)]


@pytest.fixture(scope="module")
def opened(tmp_path_factory, request):
    """opened(architecture, place, **options of ModelRunner) -> a runner on a fresh cache. Layers turn by three axes."""
    files, models = {}, {}

    def model(architecture, place):
        if architecture not in files:
            path = tmp_path_factory.mktemp("parts") / f"{architecture}.gguf"
            files[architecture] = loading.read(
                write_tiny_gguf(path, architecture, "f32", num_layers=NUM_LAYERS[architecture], window=12)
            )
        file, count = files[architecture], NUM_LAYERS[architecture]
        if place in ("twins", "ggml"):
            return loading.load(file)
        device = request.getfixturevalue("device")
        if place == "device":
            return loading.load(file, device)
        is_tied = architecture == "gemma3"
        second = device if place == "two on device" else None
        return loading.load_parts(
            file, [(LayerSpan(0, 1, count, is_tied), device), (LayerSpan(1, count + 1, count, is_tied), second)]
        )

    def open_runner(architecture, place, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoder, "Rope", partial(Rope, axes=AXES))
            if place == "ggml":
                patch.setenv("VKBACKEND_CPU", "ggml")
                require_ggml()
            if (architecture, place) not in models:
                models[architecture, place] = model(architecture, place)
            options = {"context_length": 96, "max_sequences": 2, "prefill_chunk": 16, "max_part": 32, **options}
            return ModelRunner(models[architecture, place], kv_type="f32", **options)

    open_runner.files = files
    return open_runner


def rows_of(count, seed=3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)


def grid(height, width) -> np.ndarray:
    """Positions of a picture: time, row, column."""
    return np.array([(0, row, column) for row in range(height) for column in range(width)], np.int32)


def picture(**fields) -> EmbeddingPart:
    return EmbeddingPart(rows_of(20), b"picture", **{"is_whole": True, **fields})


def run(runner, prompt, size=30, sequence=None, first=0) -> np.ndarray:
    """Logits after each cell from `first` on, in stretches of `size` at most."""
    cells, parts = lay_out(prompt)
    own, found = runner.open_sequence() if sequence is None else None, []
    while first < len(cells):
        count = parts.num_uncut(first, min(size, len(cells) - first)) or parts.num_together(first)
        last = first + count
        work = SequenceWork(sequence or own, cells[first:last], count, inputs=parts.inputs(first, last))
        found += [row.full().copy() for row in runner.step([work])]
        first = last
    if own is not None:
        runner.close_sequence(own)
    return np.array(found)


def expected(opened, architecture, prompt) -> np.ndarray:
    gguf = opened.files[architecture].gguf
    table = np.asarray(gguf.data("token_embd.weight")).view(np.float32).reshape(-1, WIDTH)
    cells, parts = lay_out(prompt)
    embeddings = table[[cell if isinstance(cell, int) else 0 for cell in cells]] * np.float32(
        WIDTH**0.5 if architecture == "gemma3" else 1
    )
    inputs, at = parts.inputs(0, len(cells)), np.arange(len(cells))
    embeddings[inputs.embedded_rows] = inputs.embeddings
    rope = np.repeat(at[:, None], 4, 1) if inputs.rope_positions is None else inputs.rope_positions
    return forward(gguf, embeddings, rope, at if inputs.limits is None else inputs.limits, AXES)


def same_bits(found, wanted):
    np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


def near(found, wanted):
    assert found.shape == wanted.shape and np.abs(found - wanted).max() < 2e-4 * np.abs(wanted).max()


everywhere = pytest.mark.parametrize("place", PLACES)
in_one_place = pytest.mark.parametrize("place", ("device", "ggml"))
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@everywhere
@each_architecture
def test_rows_that_equal_embeddings_of_tokens_give_their_bits(opened, architecture, place):
    runner = opened(architecture, place)
    plain = run(runner, TOKENS[:40])
    embed = runner.model.parts[0].layers.embed if runner.model.parts else runner.model.layers.embed
    rows = embed.weight.rows(np.array(TOKENS[5:30])) * np.float32(embed.scale)
    part = EmbeddingPart(rows, b"tokens")
    same_bits(run(runner, [*TOKENS[:5], part, *TOKENS[30:40]]), plain)


@everywhere
@each_architecture
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"is_whole": False},
        {"positions": np.arange(20)[::-1, None], "num_positions": 7},
        {"positions": grid(4, 5), "num_positions": 5},
        {"positions": np.pad(grid(5, 4), ((0, 0), (0, 1))), "num_positions": 3, "is_whole": False},
    ],
    ids=["whole", "loose", "one axis", "three axes", "four axes, loose"],
)
def test_logits_are_those_of_a_plain_forward_pass(opened, architecture, place, fields):
    """Tokens before and after, then a second part."""
    second = EmbeddingPart(rows_of(3, 4), b"second", positions=grid(1, 3), is_whole=True)
    prompt = [*TOKENS[:7], picture(**fields), *TOKENS[7:20], second, *TOKENS[20:25]]
    found = run(opened(architecture, place), prompt)
    near(found, expected(opened, architecture, prompt))


@pytest.mark.parametrize("place", WITH_BITS)
def test_a_whole_part_is_seen_by_its_own_rows_alone(opened, place):
    """Its rows differ from loose ones, the tokens before it do not; and the model does look at the axes."""
    runner = opened("gemma3", place)
    whole, loose = (run(runner, [*TOKENS[:6], picture(is_whole=each), *TOKENS[6:9]]) for each in (True, False))
    same_bits(whole[:6], loose[:6])
    assert (np.abs(whole[6:25] - loose[6:25]).max(1) > 1e-3).all()
    turned = run(runner, [*TOKENS[:6], picture(positions=grid(4, 5)), *TOKENS[6:9]])
    same_bits(turned[:6], whole[:6])
    assert (np.abs(turned[7:] - whole[7:]).max(1) > 1e-3).all()


PROMPT = [*TOKENS[:11], picture(positions=grid(4, 5), num_positions=5), *TOKENS[11:30], picture(is_whole=False)]


@in_one_place
@each_architecture
@pytest.mark.parametrize("size", [1, 7, 16])
def test_bits_do_not_depend_on_how_a_prompt_is_cut(opened, architecture, place, size):
    """Where decode has the bits of prefill. A whole part runs at once, in any case."""
    runner = opened(architecture, place)
    same_bits(run(runner, PROMPT, size), run(runner, PROMPT, 30))


@in_one_place
@each_architecture
def test_bits_do_not_depend_on_other_sequences(opened, architecture, place):
    """A plain sequence and one with parts, in one step and each alone: prefill, then decode."""
    runner = opened(architecture, place)
    cells, parts = lay_out([*PROMPT, *TOKENS[30:33]])
    ends = [11, 31, 40, 50, 70, 71, 72, 73]
    plain = [TOKENS[4 * number : 4 * number + 4] for number in range(5)] + [[token] for token in TOKENS[40:43]]

    def with_parts(sequence, first, last):
        return SequenceWork(sequence, cells[first:last], 1, inputs=parts.inputs(first, last))

    def steps(groups):
        """groups: of the two sequences, those that share a step."""
        sequences, found = [runner.open_sequence(), runner.open_sequence()], []
        for number, (first, last) in enumerate(zip([0, *ends], ends)):
            work = [with_parts(sequences[0], first, last), SequenceWork(sequences[1], plain[number], 1)]
            for group in groups:
                found += [row.full().copy() for row in runner.step([work[which] for which in group])]
        for sequence in sequences:
            runner.close_sequence(sequence)
        return np.array(found)

    same_bits(steps([(0, 1)]), steps([(0,), (1,)]))


@pytest.mark.parametrize("place", WITH_BITS)
def test_pages_of_a_part_are_shared_and_the_rest_has_the_same_bits(opened, place):
    """32 cells a page: the second sequence finds rows 0 to 20 of the part and runs the other seven."""
    runner = opened("llama", place)
    part = EmbeddingPart(rows_of(28), b"large", positions=grid(4, 7), num_positions=7, is_whole=True)
    prompt = [*TOKENS[:11], part, *TOKENS[11:20]]
    cells = lay_out(prompt)[0]
    alone = run(runner, prompt)
    first = runner.open_sequence(Prefix(cells[:-1]))
    assert runner.length(first) == 0
    run(runner, prompt, sequence=first)
    second = runner.open_sequence(Prefix(cells[:-1]))
    assert runner.length(second) == 32
    same_bits(run(runner, prompt, sequence=second, first=32), alone[32:])
    runner.close_sequence(first)
    other = EmbeddingPart(rows_of(28, 9), b"other", positions=grid(4, 7), num_positions=7, is_whole=True)
    assert runner.num_known(Prefix(lay_out([*TOKENS[:11], other, *TOKENS[11:20]])[0])) == 0


def test_a_part_of_a_step_does_not_cut_rows_that_see_each_other(opened):
    """The step is more than a chunk; so are the rows."""
    runner = opened("llama", "device")
    cells, parts = lay_out(PROMPT)
    sequence = runner.open_sequence()
    (row,) = runner.step([SequenceWork(sequence, cells, 1, inputs=parts.inputs(0, len(cells)))])
    same_bits(row.full()[None], run(opened("llama", "device"), PROMPT)[-1:])


def test_rows_that_are_too_many_for_a_step_are_refused(opened):
    runner = opened("llama", "device", max_part=0)
    cells, parts = lay_out([*TOKENS[:3], picture()])
    sequence = runner.open_sequence()
    with pytest.raises(
        RequestError, match="20 rows of embeddings must run in one step, but a step holds at most 16 rows"
    ):
        runner.step([SequenceWork(sequence, cells, 1, inputs=parts.inputs(0, len(cells)))])
    assert runner.length(sequence) == 0


def test_steps_of_tokens_are_recorded_without_parts(opened):
    """Also while another sequence has parts behind it, where neither needs more than its positions."""
    runner = opened("gemma3", "device", prefill_chunk=32)
    loose = picture(is_whole=False)
    cells, parts = lay_out([*TOKENS[:3], loose, *TOKENS[3:5]])
    first, second = runner.open_sequence(), runner.open_sequence()
    runner.step([SequenceWork(first, cells[:24], 1, inputs=parts.inputs(0, 24))])
    (with_rows,) = runner.executor._plans.values()
    runner.step([SequenceWork(second, TOKENS[:20], 1)])
    runner.step([SequenceWork(first, cells[24:], 1, inputs=parts.inputs(24, 25)), SequenceWork(second, [7], 1)])
    _, *plain = runner.executor._plans.values()
    extra = {"embedded_rows", "rope_positions", "limits"}
    assert extra & set(with_rows.graph.step) == {"embedded_rows"} and len(plain) == 2
    assert not any(extra & set(plan.graph.step) or plan.graph.inputs for plan in plain)
    ops = [{node.op.name for node in plan.graph.nodes} for plan in plain]
    assert "attention" in ops[0] and "decode_attention" in ops[1] and "attention" not in ops[1]
    assert not any("place_rows" in each for each in ops)


@in_one_place
@each_architecture
def test_answers_do_not_depend_on_other_requests_or_the_cache(opened, architecture, place):
    """Through the engine: alone, from the cache, together with others that take the pages away, and with a context that
    shifts, which drops the picture. Each token has the same log-probability to the last bit.
    """
    tokenizer = FakeTokenizer(vocab_size=opened(architecture, place).vocab_size)
    tokenizer.eos_ids = {-1}  # no answer ends by itself
    options = SamplingOptions(temperature=1, seed=7, repeat_penalty=1.2)
    another = EmbeddingPart(rows_of(30, 5), b"another", is_whole=True)
    requests = [
        GenerationRequest(prompt, options, num_predict=70, logprobs=True, num_keep=2, num_ctx=num_ctx)
        for prompt, num_ctx in (
            ([*TOKENS[:5], picture(positions=grid(4, 5), num_positions=5), *TOKENS[5:9]], 128),
            ([*TOKENS[:5], another, *TOKENS[9:12]], 128),
            (TOKENS[20:50], 128),
            ([*TOKENS[:5], picture(positions=grid(4, 5), num_positions=5), *TOKENS[5:9]], 48),
        )
    ]

    def answers(num_pages, parallel):
        """To each request twice, and how often a generation gave way."""
        runner = opened(architecture, place, context_length=128, max_sequences=parallel, num_pages=num_pages)
        with Engine(runner, tokenizer) as engine:
            preempt, num_preempted = engine._preempt, []
            engine._preempt = lambda generation: (num_preempted.append(1), preempt(generation))
            listeners = []
            for request in [*requests, *requests]:
                listeners.append(Listener())
                engine.submit(request, listeners[-1])
                if parallel == 1:
                    listeners[-1].wait()
            assert all(listener.wait().reason == "length" for listener in listeners)
        pieces = [[event for event in listener.events if isinstance(event, Piece)] for listener in listeners]
        return [[entry.logprob for piece in each for entry in piece.logprobs] for each in pieces], len(num_preempted)

    alone, _ = answers(num_pages=16, parallel=1)
    assert [len(each) for each in alone] == [70] * 8 and alone[:4] == alone[4:] and alone[0] != alone[3]
    together, num_preempted = answers(num_pages=8, parallel=3)
    assert together == alone and num_preempted > 0
