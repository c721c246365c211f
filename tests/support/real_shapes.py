"""GGUF files with random weights and the shapes of real models, 1B to 14B, written piece by piece.

In: a name in `SHAPES`. Out: the file; the same arguments give the same bytes. Weights have the spread of trained ones,
so nothing overflows; the text that such a model writes means nothing. Vocabularies are those of real_vocabularies.py.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFWriter, LlamaFileType
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from real_vocabularies import add_bpe, add_sentencepiece

from vkbackend import settings

VERSION = 2  # of what is written; a change of it makes cached files obsolete
PIECE_BYTES = 64 << 20  # of float32 values made at a time
FILE_TYPES = {
    Kind.F16: LlamaFileType.MOSTLY_F16,
    Kind.Q4_0: LlamaFileType.MOSTLY_Q4_0,
    Kind.Q8_0: LlamaFileType.MOSTLY_Q8_0,
    Kind.Q4_K: LlamaFileType.MOSTLY_Q4_K_M,
}
GEMMA3_WINDOW = 1024


@dataclass(frozen=True)
class Shape:
    """A model.

    tokenizer: "gpt2" (Llama 3's) or "llama" (SentencePiece), as `tokenizer.ggml.model` names them
    matrices, more: formats of the matrices, and of those that K_M mixes store more precisely
    embedding: its format; None: the output's matrix is used
    rope_factor: Llama 3's; 0: no factors
    """

    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    tokenizer: str
    vocabulary: int
    context: int
    rope_base: float
    matrices: Kind
    more: Kind
    output: Kind
    embedding: Kind | None = None
    rope_factor: float = 0.0

    @property
    def is_gemma(self) -> bool:
        return self.architecture == "gemma3"

    def of_one_format(self, kind: Kind) -> "Shape":
        """The same model with all matrices in one format."""
        embedding = self.embedding and kind
        return replace(self, matrices=kind, more=kind, output=kind, embedding=embedding)


LLAMA_1B = Shape(
    architecture="llama",
    layers=16,
    width=2048,
    heads=32,
    kv_heads=8,
    head_dim=64,
    feed_forward=8192,
    tokenizer="gpt2",
    vocabulary=128_256,
    context=131_072,
    rope_base=5e5,
    matrices=Kind.Q4_K,
    more=Kind.Q6_K,
    output=Kind.Q6_K,
    rope_factor=32,
)
LLAMA_8B = Shape(
    architecture="llama",
    layers=32,
    width=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    feed_forward=14_336,
    tokenizer="gpt2",
    vocabulary=128_256,
    context=131_072,
    rope_base=5e5,
    matrices=Kind.Q4_K,
    more=Kind.Q6_K,
    output=Kind.Q6_K,
    embedding=Kind.Q4_K,
    rope_factor=8,
)
GEMMA_4B = Shape(
    architecture="gemma3",
    layers=34,
    width=2560,
    heads=8,
    kv_heads=4,
    head_dim=256,
    feed_forward=10_240,
    tokenizer="llama",
    vocabulary=262_144,
    context=131_072,
    rope_base=1e6,
    matrices=Kind.Q4_K,
    more=Kind.Q6_K,
    output=Kind.Q6_K,
)
LLAMA_7B = Shape(
    architecture="llama",
    layers=32,
    width=4096,
    heads=32,
    kv_heads=32,
    head_dim=128,
    feed_forward=11_008,
    tokenizer="llama",
    vocabulary=32_000,
    context=4096,
    rope_base=1e4,
    matrices=Kind.Q4_0,
    more=Kind.Q4_0,
    output=Kind.Q6_K,
    embedding=Kind.Q4_0,
)
LLAMA_14B = replace(
    LLAMA_8B, layers=40, width=5120, heads=40, feed_forward=17_408, context=40_960, rope_base=1e6, rope_factor=0.0
)
SHAPES = {
    "llama1b": LLAMA_1B,
    "llama1b-q8": LLAMA_1B.of_one_format(Kind.Q8_0),
    "llama1b-f16": LLAMA_1B.of_one_format(Kind.F16),
    "gemma4b": GEMMA_4B,
    "llama7b": LLAMA_7B,
    "llama8b": LLAMA_8B,
    "llama8b-q8": LLAMA_8B.of_one_format(Kind.Q8_0),
    "llama14b": LLAMA_14B,
}


def cached(name: str, layers: int | None = None) -> Path:
    """The file of a shape in the cache folder, written if it is not there. layers: as for `write`."""
    folder = settings.cache_folder() / "real_shapes"
    stem = f"{name}-{layers or SHAPES[name].layers}-v"
    path = folder / f"{stem}{VERSION}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(SHAPES[name], path, layers)
        for other in set(folder.glob(f"{stem}*.gguf")) - {path}:
            other.unlink(missing_ok=True)
    return path


def write(shape: Shape, out: Path, layers: int | None = None, seed: int = 0, is_expanded: bool = False) -> None:
    """Write a file of `shape`, which replaces `out` once it is complete.

    layers: if not the shape's own number
    is_expanded: with the same values in float32, for runs of other programs without rounded activations
    """
    layers = layers or shape.layers
    unfinished = out.with_suffix(f".{os.getpid()}")
    writer = GGUFWriter(unfinished, shape.architecture)
    _add_fields(writer, shape, layers, LlamaFileType.ALL_F32 if is_expanded else FILE_TYPES[shape.matrices])
    if shape.tokenizer == "gpt2":
        add_bpe(writer, shape.vocabulary)
    else:
        add_sentencepiece(writer, shape.vocabulary, shape.is_gemma)
    made = [replace(tensor, is_expanded=is_expanded) for tensor in tensors(shape, layers, seed)]
    for tensor in made:
        tensor.declare(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    for tensor in made:
        for piece in tensor.pieces():
            file.write(piece.data)
        writer.write_padding(file, tensor.num_bytes)
    writer.close()
    unfinished.rename(out)


def _add_fields(writer: GGUFWriter, shape: Shape, layers: int, file_type: LlamaFileType) -> None:
    writer.add_name(f"random weights, {shape.architecture} {shape.width} wide")
    writer.add_block_count(layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6 if shape.is_gemma else 1e-5)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_file_type(file_type)
    writer.add_vocab_size(shape.vocabulary)
    if shape.is_gemma:
        writer.add_sliding_window(GEMMA3_WINDOW)
        writer.add_string("gemma3.rope.scaling.type", "linear")
        writer.add_float32("gemma3.rope.scaling.factor", 8.0)
    else:
        writer.add_rope_dimension_count(shape.head_dim)


@dataclass(frozen=True)
class Tensor:
    """A tensor whose values are made while it is written.

    is_expanded: written in float32, with the values that it has in its own format
    values: of a vector; None: random ones around `spread` for a vector, and with the standard deviation `spread` for a
    matrix
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    spread: float
    seed: int
    values: np.ndarray | None = None
    is_expanded: bool = False

    @property
    def stored_kind(self) -> Kind:
        return Kind.F32 if self.is_expanded else self.kind

    @property
    def num_bytes(self) -> int:
        block, block_bytes = GGML_QUANT_SIZES[self.stored_kind]
        return int(np.prod(self.shape)) // block * block_bytes

    def declare(self, writer: GGUFWriter) -> None:
        """Add the tensor to the file's table."""
        block, block_bytes = GGML_QUANT_SIZES[self.stored_kind]
        if block == 1:
            dtype = np.dtype(np.float32 if self.stored_kind is Kind.F32 else np.float16)
            writer.add_tensor_info(self.name, self.shape, dtype, self.num_bytes)
        else:
            stored = (self.shape[0], self.shape[1] // block * block_bytes)
            writer.add_tensor_info(self.name, stored, np.dtype(np.uint8), self.num_bytes, raw_dtype=self.kind)

    def pieces(self) -> Iterator[np.ndarray]:
        """The data, some rows at a time."""
        rng = np.random.Generator(np.random.SFC64(self.seed))
        if self.values is not None:
            yield self.values
        elif len(self.shape) == 1:
            yield rng.uniform(0.8, 1.2, self.shape).astype(np.float32) * np.float32(self.spread)
        else:
            rows, width = self.shape
            step = max(1, PIECE_BYTES // (4 * width))
            for first in range(0, rows, step):
                raw = random_rows(rng, self.kind, min(step, rows - first), width, self.spread)
                yield dequantize(raw, self.kind).astype(np.float32, copy=False) if self.is_expanded else raw


def tensors(shape: Shape, layers: int | None = None, seed: int = 0) -> Iterator[Tensor]:
    """All tensors, in the order of the file. Q4_K_M's mix: `more` for some of attn_v and ffn_down."""
    layers = layers or shape.layers
    seeds = iter(range(seed * 100_000 + 1, (seed + 1) * 100_000))

    def matrix(name: str, rows: int, columns: int, kind: Kind, spread: float) -> Tensor:
        return Tensor(f"{name}.weight", (rows, columns), kind, spread, next(seeds))

    def norm(name: str, size: int, spread: float = 1.0) -> Tensor:
        return Tensor(f"{name}.weight", (size,), Kind.F32, spread, next(seeds))

    width, head_dim, feed_forward = shape.width, shape.head_dim, shape.feed_forward
    all_heads, kv_heads = shape.heads * head_dim, shape.kv_heads * head_dim
    if shape.rope_factor:
        yield Tensor("rope_freqs.weight", (head_dim // 2,), Kind.F32, 0.0, 0, rope_factors(shape))
    if shape.embedding is None:
        yield matrix("token_embd", shape.vocabulary, width, shape.output, 2 * width**-0.5)
    else:
        yield matrix("token_embd", shape.vocabulary, width, shape.embedding, 0.02)
        yield matrix("output", shape.vocabulary, width, shape.output, 2 * width**-0.5)
    yield norm("output_norm", width)
    for layer in range(layers):
        block = f"blk.{layer}."
        eighth = layers // 8
        takes_more = layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
        more = shape.more if takes_more else shape.matrices
        yield norm(block + "attn_norm", width)
        yield norm(block + "ffn_norm", width)
        yield matrix(block + "attn_q", all_heads, width, shape.matrices, 1.5 * width**-0.5)
        yield matrix(block + "attn_k", kv_heads, width, shape.matrices, 1.5 * width**-0.5)
        yield matrix(block + "attn_v", kv_heads, width, more, width**-0.5)
        yield matrix(block + "attn_output", width, all_heads, shape.matrices, all_heads**-0.5)
        yield matrix(block + "ffn_gate", feed_forward, width, shape.matrices, 1.5 * width**-0.5)
        yield matrix(block + "ffn_up", feed_forward, width, shape.matrices, width**-0.5)
        yield matrix(block + "ffn_down", width, feed_forward, more, feed_forward**-0.5)
        if shape.is_gemma:
            yield norm(block + "attn_q_norm", head_dim)
            yield norm(block + "attn_k_norm", head_dim)
            yield norm(block + "post_attention_norm", width, 0.5)
            yield norm(block + "post_ffw_norm", width, 0.5)


def random_rows(rng: np.random.Generator, kind: Kind, rows: int, width: int, spread: float) -> np.ndarray:
    """Rows of a matrix in the format `kind`, as stored: random codes whose values have mean 0 and about the standard
    deviation `spread`. The divisors are the standard deviations of each format's codes at scale 1.
    """
    if kind in (Kind.F32, Kind.F16):
        values = rng.standard_normal((rows, width), np.float32) * np.float32(spread)
        return values if kind is Kind.F32 else values.astype(np.float16)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    count = rows * width // block
    raw = np.frombuffer(rng.bytes(count * block_bytes), np.uint8).reshape(count, block_bytes).copy()
    varied = rng.uniform(0.5, 1.5, count).astype(np.float32)

    def put_half(place: int, values: np.ndarray) -> None:
        raw[:, place : place + 2] = values.astype(np.float16)[:, None].view(np.uint8)

    if kind is Kind.Q8_0:
        put_half(0, varied * spread / 74)
    elif kind is Kind.Q4_0:
        put_half(0, varied * spread / 4.6)
    elif kind in (Kind.Q4_K, Kind.Q5_K):
        scale = varied * spread / (168 if kind is Kind.Q4_K else 340)
        put_half(0, scale)
        put_half(2, scale * (7.5 if kind is Kind.Q4_K else 15.5))
        raw[:, 8:12] = raw[:, 4:8]  # minimums equal the scales, so that the mean is 0
        low = raw[:, 12:16] & 15
        raw[:, 12:16] = low | (low << 4)
    elif kind is Kind.Q6_K:
        put_half(208, varied * spread / 1369)
    else:
        raise ValueError(f"no random values for {kind.name}")
    return raw.reshape(rows, -1)


def rope_factors(shape: Shape) -> np.ndarray:
    """Llama 3's factors of the rope frequencies, f32 (head_dim / 2,): as transformers' `llama3` rope type has them."""
    frequencies = shape.rope_base ** -(np.arange(0, shape.head_dim, 2) / shape.head_dim)
    wavelengths = 2 * np.pi / frequencies
    longest, shortest = 8192 / 1.0, 8192 / 4.0
    smooth = (8192 / wavelengths - 1.0) / 3.0
    between = 1 / ((1 - smooth) / shape.rope_factor + smooth)
    factors = np.where(wavelengths > longest, shape.rope_factor, between)
    return np.where(wavelengths < shortest, 1.0, factors).astype(np.float32)
