"""Ops with the weights, widths, vocabularies and positions of 1B and 4B models, compared with float64."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import real_shapes
from gguf.quants import dequantize

from vkbackend.device.buffers import Arena
from vkbackend.device.context import Device
from vkbackend.device.dispatch import Program
from vkbackend.gguf.quants import GROUP
from vkbackend.loading import LoadedLayers, load
from vkbackend.ops import OPS, attention, rope
from vkbackend.ops.op import TensorView
from vkbackend.ops.packed import PackedMatrix
from vkbackend.ops.run import run
from vkbackend.ops.top_k import CAPACITY

HEAP_BYTES = 8 << 30  # llvmpipe reports 2 GiB, but allocates what it is asked for
PAGE_SIZE = 32
POSITIONS = (16_383, 32_767, 131_071)
NUM_PAGES = 2000  # of a cache: a long context repeats them, since a binding of llvmpipe holds 128 MiB
LAST_ROWS = 2 * GROUP
LAYERS = ("vkbackend.architectures.", "vkbackend.models.")  # modules of classes that have matrices


@pytest.fixture(scope="module")
def large_device(device: Device) -> Iterator[Device]:
    """The default device, which reports more memory."""
    opened = Device(replace(device.info, memory_total=HEAP_BYTES, memory_free=HEAP_BYTES))
    yield opened
    gc.collect()
    opened.close()


@dataclass(frozen=True)
class Real:
    """One layer and the vocabulary of a real shape, loaded. matrices: by the names of their tensors."""

    name: str
    shape: real_shapes.Shape
    device: Device
    loaded: LoadedLayers
    matrices: dict[str, PackedMatrix]


@pytest.fixture(scope="module", params=["llama1b", "gemma4b"])
def real(request: pytest.FixtureRequest, large_device: Device) -> Real:
    loaded = load(real_shapes.cached(request.param, layers=1), large_device)
    matrices = {matrix.name: matrix for matrix in matrices_of(loaded.layers)}
    return Real(request.param, real_shapes.SHAPES[request.param], large_device, loaded, matrices)


def matrices_of(layer: object) -> Iterator[PackedMatrix]:
    """All matrices in a layer's attributes, and in theirs; a shared one repeats."""
    values = layer if isinstance(layer, list) else vars(layer).values()
    for value in values:
        if isinstance(value, PackedMatrix):
            yield value
        elif isinstance(value, list) or type(value).__module__.startswith(LAYERS):
            yield from matrices_of(value)


class Job:
    """An op on one device: uploads inputs, runs, downloads. Unlike `ops.run`, it does not run the numpy twin."""

    def __init__(self, device: Device):
        self.device = device
        self.arena = Arena(device, "device", 1 << 20)

    def upload(self, values: np.ndarray) -> TensorView:
        view = TensorView(self.arena.allocate(values.nbytes), values.shape, values.dtype.name)
        self.device.upload(view.buffer, values)
        return view

    def empty(self, shape: tuple[int, ...]) -> TensorView:
        return self.upload(np.full(shape, np.nan, np.float32))

    def run(self, name: str, inputs: list, outputs: list[TensorView], **attrs: object) -> np.ndarray:
        """The first output. The others are caches, which the op changes in place."""
        scratch = [self.empty(shape) for shape, _ in OPS[name].scratch(inputs, **attrs)]
        Program(self.device, OPS[name].record(self.device, inputs, [*outputs, *scratch], **attrs)).run()
        view = outputs[0]
        return self.device.download(view.buffer, view.dtype, view.shape)


def exact_rows(matrix: PackedMatrix, rows: np.ndarray) -> np.ndarray:
    """Rows of a matrix in float64, dequantized by the gguf package."""
    raw = np.concatenate([np.asarray(part) for part in matrix.raws]) if len(matrix.raws) > 1 else matrix.raws[0]
    chosen = np.ascontiguousarray(raw[rows])
    return dequantize(chosen, matrix.format.type).reshape(len(rows), -1).astype(np.float64)


def sampled_rows(matrix: PackedMatrix) -> np.ndarray:
    """One row of every group, another one in each; those around the edges of parts; the last ones."""
    count = matrix.shape[0] // (2 if matrix.gated else 1)
    one_of_each = np.arange(0, count, GROUP) + np.arange(-(-count // GROUP)) * 7 % GROUP
    edges = [part.first_row + step for part in matrix.parts for step in (-1, 0, 1)]
    rows = np.unique(np.concatenate([one_of_each, edges, np.arange(count - LAST_ROWS, count)]))
    return rows[(rows >= 0) & (rows < count)]


@pytest.mark.parametrize("num_tokens", [1, 16])
def test_products(real, num_tokens):
    rng = np.random.default_rng(num_tokens)
    assert len(real.matrices) >= 5
    for name, matrix in real.matrices.items():
        rows, columns = matrix.shape
        job = Job(real.device)
        x = rng.standard_normal((num_tokens, columns), np.float32)
        gate = {"llama": "silu", "gemma3": "gelu"}[real.shape.architecture] if matrix.gated else ""
        outputs = rows // 2 if gate else rows
        found = job.run(
            "matmul", [job.upload(x), matrix, None, None, None], [job.empty((num_tokens, outputs))], gate=gate
        )
        assert np.isfinite(found).all(), name
        some = sampled_rows(matrix)
        expected = x.astype(np.float64) @ exact_rows(matrix, some).T
        if gate:
            expected = activation(gate, expected) * (x.astype(np.float64) @ exact_rows(matrix, some + outputs).T)
        difference = np.abs(found[:, some] - expected).max() / np.abs(expected).std()
        assert difference < 2e-5, (name, difference)


def activation(name: str, x: np.ndarray) -> np.ndarray:
    if name == "silu":
        return x / (1 + np.exp(-x))
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_embeddings(real):
    matrix = real.matrices["token_embd.weight"]
    rng = np.random.default_rng(0)
    tokens = np.concatenate([sampled_rows(matrix)[::64], rng.integers(0, matrix.shape[0], 64)]).astype(np.int32)
    tokens = np.append(tokens, [0, matrix.shape[0] - 1]).astype(np.int32)
    job = Job(real.device)
    output = job.empty((len(tokens), matrix.shape[1]))
    found = job.run("embed", [job.upload(tokens), matrix], [output], scale=1.5)
    np.testing.assert_allclose(found, 1.5 * exact_rows(matrix, tokens), rtol=1e-6, atol=1e-7)


@dataclass(frozen=True)
class LongContext:
    """A cache of a model's shape with random keys and values, and page tables of sequences that end at `POSITIONS`.

    keys, values: f16 (pages, page_size, kv_heads, head_dim)
    page_tables: row by row alike, but for the last page of each: a decode step writes to it
    """

    job: Job
    keys: np.ndarray
    values: np.ndarray
    k_cache: TensorView
    v_cache: TensorView
    page_tables: np.ndarray

    @classmethod
    def of(cls, device: Device, kv_heads: int, head_dim: int) -> "LongContext":
        rng = np.random.default_rng(head_dim)
        job = Job(device)
        shape = (NUM_PAGES + len(POSITIONS), PAGE_SIZE, kv_heads, head_dim)
        pair = [rng.standard_normal(shape, np.float32).astype(np.float16) for _ in range(2)]
        by_head = [np.ascontiguousarray(each.transpose(0, 2, 1, 3)) for each in pair]  # as devices store it
        views = [TensorView(job.upload(each).buffer, shape, "float16") for each in by_head]
        longest = (max(POSITIONS) + 1) // PAGE_SIZE
        page_tables = np.tile(np.resize(rng.permutation(NUM_PAGES), longest), (len(POSITIONS), 1)).astype(np.int32)
        for row, position in enumerate(POSITIONS):
            page_tables[row, position // PAGE_SIZE] = NUM_PAGES + row
        return cls(job, *pair, *views, page_tables)

    def attend(self, head: int, queries: np.ndarray, row: int, own: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        """What queries (n, head_dim) of a key-value head at POSITIONS[row] see, float64 (n, head_dim). own: the key and
        value at that position, for others than those in the cache.
        """
        pages = self.page_tables[row, : POSITIONS[row] // PAGE_SIZE + 1]
        keys, values = (
            each[pages, :, head].reshape(-1, each.shape[-1]).astype(np.float32) for each in (self.keys, self.values)
        )
        if own is not None:
            keys[-1], values[-1] = own[0][head], own[1][head]
        scores = queries @ keys.T.astype(np.float64) * keys.shape[1] ** -0.5
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights @ values.astype(np.float64) / weights.sum(axis=-1, keepdims=True)

    def check(
        self, found: np.ndarray, q: np.ndarray, row: int, own: tuple[np.ndarray, np.ndarray] | None = None
    ) -> None:
        """Compare the heads that read the first and the last key-value head. found, q: (heads, head_dim)."""
        kv_heads = self.keys.shape[2]
        by_head = found.reshape(kv_heads, -1, found.shape[-1]), q.reshape(kv_heads, -1, q.shape[-1])
        for head in (0, kv_heads - 1):
            expected = self.attend(head, by_head[1][head].astype(np.float64), row, own)
            assert np.abs(by_head[0][head] - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.fixture(scope="module")
def context(real: Real) -> LongContext:
    return LongContext.of(real.device, real.shape.kv_heads, real.shape.head_dim)


def test_attention_far_into_a_context(real, context):
    job = context.job
    tokens = len(POSITIONS)
    q = np.random.default_rng(1).standard_normal((tokens, real.shape.heads, real.shape.head_dim), np.float32)
    inputs = [
        job.upload(q),
        context.k_cache,
        context.v_cache,
        job.upload(np.array(POSITIONS, np.int32)),
        job.upload(np.arange(tokens, dtype=np.int32)),
        job.upload(context.page_tables),
        None,
        None,
    ]
    found = job.run("attention", inputs, [job.empty(q.shape)], scale=real.shape.head_dim**-0.5)
    for row in range(tokens):
        context.check(found[row], q[row], row)


@pytest.mark.parametrize("row", range(len(POSITIONS)), ids=POSITIONS)
def test_a_decode_step_far_into_a_context(real, context, row):
    """Rotation, the write to the cache and attention over split heads."""
    job, shape, position = context.job, real.shape, POSITIONS[row]
    qkv = np.random.default_rng(row).standard_normal((1, shape.heads + 2 * shape.kv_heads, shape.head_dim), np.float32)
    factors = real_shapes.rope_factors(shape) if shape.rope_factor else None
    pairing = "halves" if shape.is_gemma else "adjacent"
    inputs = [
        job.upload(qkv),
        job.upload(np.array([position], np.int32)),
        job.upload(np.array([row], np.int32)),
        job.upload(context.page_tables),
        job.upload(rope.turns_per_position(shape.rope_base, shape.head_dim, 1.0, factors)),
        None,
        None,
        context.k_cache,
        context.v_cache,
        None,
    ]
    found = job.run(
        "decode_attention",
        inputs,
        [job.empty((1, shape.heads, shape.head_dim)), context.k_cache, context.v_cache],
        n_rot=shape.head_dim,
        pairing=pairing,
        scale=shape.head_dim**-0.5,
        splits=attention.splits(real.device, 1, shape.kv_heads, position + 1),
    )
    q, k, v = np.split(qkv[0].astype(np.float64), [shape.heads, shape.heads + shape.kv_heads])
    q, k = (rotated(each, position, shape, factors, pairing) for each in (q, k))
    context.check(found[0], q, row, (k, v))


def rotated(
    x: np.ndarray, position: int, shape: real_shapes.Shape, factors: np.ndarray | None, pairing: str
) -> np.ndarray:
    """x (heads, head_dim) in float64, rotated to `position`."""
    frequencies = shape.rope_base ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim)
    angle = position * (frequencies if factors is None else frequencies / factors)
    half = shape.head_dim // 2
    halves = (slice(0, half), slice(half, None)) if pairing == "halves" else (slice(0, None, 2), slice(1, None, 2))
    a, b = (x[:, each] for each in halves)
    y = np.empty_like(x)
    y[:, halves[0]] = a * np.cos(angle) - b * np.sin(angle)
    y[:, halves[1]] = a * np.sin(angle) + b * np.cos(angle)
    return y


@pytest.mark.parametrize("vocabulary", [128_256, 262_144])
def test_candidates_of_a_large_vocabulary(device, vocabulary):
    k = 128
    logits = np.random.default_rng(vocabulary).standard_normal((2, vocabulary), np.float32) * np.float32(4)
    logits[0, [0, -1]] = 40, 39  # the ends of the row
    _, stats, counts, ids, values = run(device, "top_k", logits, k=k)
    for row, exact in enumerate(logits.astype(np.float64)):
        assert stats[row, 0] == pytest.approx(np.logaddexp.reduce(exact), abs=2e-6 * 40)
        found = ids[row, : counts[row]]
        assert k <= counts[row] <= CAPACITY and len(set(found.tolist())) == counts[row]
        assert set(np.argsort(-exact)[:k].tolist()) <= set(found.tolist())
        assert (values[row, : counts[row]] == logits[row, found]).all()
