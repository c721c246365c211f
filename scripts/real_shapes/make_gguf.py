#!/usr/bin/env python3
"""Write a GGUF file with random weights and the shapes of a real model, piece by piece (memory: one piece).

    .venv/bin/python scripts/real_shapes/make_vocab.py VOCAB.json
    .venv/bin/python scripts/real_shapes/make_gguf.py llama1b VOCAB.json OUT.gguf [--layers N] [--seed S]

For memory, loading and speed at real sizes: values have the spread of trained weights, so nothing overflows; the text
that such a model writes means nothing.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFWriter
from gguf import GGMLQuantizationType as Kind
from vocabularies import add_bpe, add_sentencepiece

PIECE_BYTES = 64 << 20
LLAMA3_VOCABULARY = 128_256


@dataclass(frozen=True)
class Shape:
    """One model. more: the format of the matrices that K_M mixes store more precisely.

    rope_factor: Llama 3's, 0 = none.
    """

    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    context: int
    rope_base: float
    matrices: Kind
    more: Kind
    output: Kind
    embedding: Kind | None = None  # None: tied to the output
    rope_factor: float = 0.0


SHAPES = {
    "llama1b": Shape(
        architecture="llama",
        layers=16,
        width=2048,
        heads=32,
        kv_heads=8,
        head_dim=64,
        feed_forward=8192,
        vocabulary=LLAMA3_VOCABULARY,
        context=131072,
        rope_base=5e5,
        matrices=Kind.Q4_K,
        more=Kind.Q6_K,
        output=Kind.Q6_K,
        rope_factor=32,
    ),
    "llama1b-q8": Shape(
        architecture="llama",
        layers=16,
        width=2048,
        heads=32,
        kv_heads=8,
        head_dim=64,
        feed_forward=8192,
        vocabulary=LLAMA3_VOCABULARY,
        context=131072,
        rope_base=5e5,
        matrices=Kind.Q8_0,
        more=Kind.Q8_0,
        output=Kind.Q8_0,
        rope_factor=32,
    ),
    "llama8b": Shape(
        architecture="llama",
        layers=32,
        width=4096,
        heads=32,
        kv_heads=8,
        head_dim=128,
        feed_forward=14336,
        vocabulary=LLAMA3_VOCABULARY,
        context=131072,
        rope_base=5e5,
        matrices=Kind.Q4_K,
        more=Kind.Q6_K,
        output=Kind.Q6_K,
        embedding=Kind.Q4_K,
        rope_factor=8,
    ),
    "gemma4b": Shape(
        architecture="gemma3",
        layers=34,
        width=2560,
        heads=8,
        kv_heads=4,
        head_dim=256,
        feed_forward=10240,
        vocabulary=262144,
        context=131072,
        rope_base=1e6,
        matrices=Kind.Q4_K,
        more=Kind.Q6_K,
        output=Kind.Q6_K,
    ),
    "llama7b": Shape(
        architecture="llama",
        layers=32,
        width=4096,
        heads=32,
        kv_heads=32,
        head_dim=128,
        feed_forward=11008,
        vocabulary=32000,
        context=4096,
        rope_base=1e4,
        matrices=Kind.Q4_0,
        more=Kind.Q4_0,
        output=Kind.Q6_K,
        embedding=Kind.Q4_0,
    ),
    "llama14b": Shape(
        architecture="llama",
        layers=40,
        width=5120,
        heads=40,
        kv_heads=8,
        head_dim=128,
        feed_forward=17408,
        vocabulary=LLAMA3_VOCABULARY,
        context=40960,
        rope_base=1e6,
        matrices=Kind.Q4_K,
        more=Kind.Q6_K,
        output=Kind.Q6_K,
        embedding=Kind.Q4_K,
    ),
}


def random_rows(rng: np.random.Generator, kind: Kind, rows: int, width: int, spread: float) -> np.ndarray:
    """Rows of a matrix in the format `kind`: random codes whose values have mean 0 and about the standard deviation
    `spread`. The divisors are the standard deviations of each format's codes at scale 1.
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


@dataclass(frozen=True)
class Tensor:
    """A tensor that is made while it is written."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    spread: float
    seed: int

    @property
    def num_bytes(self) -> int:
        block, block_bytes = GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape)) // block * block_bytes

    def declare(self, writer: GGUFWriter) -> None:
        if self.kind in (Kind.F32, Kind.F16):
            dtype = np.dtype(np.float32 if self.kind is Kind.F32 else np.float16)
            writer.add_tensor_info(self.name, self.shape, dtype, self.num_bytes)
            return
        block, block_bytes = GGML_QUANT_SIZES[self.kind]
        stored = (self.shape[0], self.shape[1] // block * block_bytes)
        writer.add_tensor_info(self.name, stored, np.dtype(np.uint8), self.num_bytes, raw_dtype=self.kind)

    def write(self, file) -> None:
        rng = np.random.Generator(np.random.SFC64(self.seed))
        if len(self.shape) == 1:
            values = rng.uniform(0.8, 1.2, self.shape).astype(np.float32) * np.float32(self.spread)
            file.write(values.tobytes())
            return
        rows, width = self.shape
        step = max(1, PIECE_BYTES // (4 * width))
        for first in range(0, rows, step):
            file.write(random_rows(rng, self.kind, min(step, rows - first), width, self.spread).tobytes())


def tensors(shape: Shape, layers: int, seed: int) -> list[Tensor]:
    """All tensors but rope_freqs, in the order of the file. Q4_K_M's mix: `more` for some of attn_v and ffn_down."""
    made: list[Tensor] = []

    def put(name: str, dimensions: tuple[int, ...], kind: Kind, spread: float) -> None:
        made.append(Tensor(f"{name}.weight", dimensions, kind, spread, seed * 100_000 + len(made) + 1))

    width, head_dim, feed_forward = shape.width, shape.head_dim, shape.feed_forward
    all_heads, kv_heads = shape.heads * head_dim, shape.kv_heads * head_dim
    if shape.embedding is None:
        put("token_embd", (shape.vocabulary, width), shape.output, 2 * width**-0.5)
    else:
        put("token_embd", (shape.vocabulary, width), shape.embedding, 0.02)
        put("output", (shape.vocabulary, width), shape.output, 2 * width**-0.5)
    put("output_norm", (width,), Kind.F32, 1.0)
    for layer in range(layers):
        block = f"blk.{layer}."
        eighth = layers // 8
        takes_more = layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
        more = shape.more if takes_more else shape.matrices
        put(block + "attn_norm", (width,), Kind.F32, 1.0)
        put(block + "ffn_norm", (width,), Kind.F32, 1.0)
        put(block + "attn_q", (all_heads, width), shape.matrices, 1.5 * width**-0.5)
        put(block + "attn_k", (kv_heads, width), shape.matrices, 1.5 * width**-0.5)
        put(block + "attn_v", (kv_heads, width), more, width**-0.5)
        put(block + "attn_output", (width, all_heads), shape.matrices, all_heads**-0.5)
        put(block + "ffn_gate", (feed_forward, width), shape.matrices, 1.5 * width**-0.5)
        put(block + "ffn_up", (feed_forward, width), shape.matrices, width**-0.5)
        put(block + "ffn_down", (width, feed_forward), more, feed_forward**-0.5)
        if shape.architecture == "gemma3":
            put(block + "attn_q_norm", (head_dim,), Kind.F32, 1.0)
            put(block + "attn_k_norm", (head_dim,), Kind.F32, 1.0)
            put(block + "post_attention_norm", (width,), Kind.F32, 0.5)
            put(block + "post_ffw_norm", (width,), Kind.F32, 0.5)
    return made


def rope_factors(shape: Shape) -> np.ndarray:
    """Llama 3's factors of the rope frequencies, f32 (head_dim / 2,): as transformers' `llama3` rope type has them."""
    frequencies = shape.rope_base ** -(np.arange(0, shape.head_dim, 2) / shape.head_dim)
    wavelengths = 2 * np.pi / frequencies
    longest, shortest = 8192 / 1.0, 8192 / 4.0
    smooth = (8192 / wavelengths - 1.0) / 3.0
    between = 1 / ((1 - smooth) / shape.rope_factor + smooth)
    factors = np.where(wavelengths > longest, shape.rope_factor, between)
    return np.where(wavelengths < shortest, 1.0, factors).astype(np.float32)


def add_fields(writer: GGUFWriter, name: str, shape: Shape, layers: int) -> None:
    is_gemma = shape.architecture == "gemma3"
    writer.add_name(f"random {name}")
    writer.add_block_count(layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6 if is_gemma else 1e-5)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_file_type(15)
    writer.add_vocab_size(shape.vocabulary)
    if is_gemma:
        writer.add_sliding_window(1024)
        writer.add_string("gemma3.rope.scaling.type", "linear")
        writer.add_float32("gemma3.rope.scaling.factor", 8.0)
    else:
        writer.add_rope_dimension_count(shape.head_dim)


def make(name: str, vocabulary: dict, out: Path, layers: int | None = None, seed: int = 0) -> None:
    """Write the file. vocabulary: what make_vocab.py wrote."""
    shape = SHAPES[name]
    num_layers = layers or shape.layers
    writer = GGUFWriter(out, shape.architecture)
    add_fields(writer, name, shape, num_layers)
    if shape.vocabulary == LLAMA3_VOCABULARY:
        add_bpe(writer, vocabulary, shape.vocabulary)
    else:
        add_sentencepiece(writer, vocabulary, shape.vocabulary, is_gemma=shape.architecture == "gemma3")
    if shape.rope_factor:
        half = shape.head_dim // 2
        writer.add_tensor_info("rope_freqs.weight", (half,), np.dtype(np.float32), 4 * half)
    made = tensors(shape, num_layers, seed)
    for tensor in made:
        tensor.declare(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    if shape.rope_factor:
        factors = rope_factors(shape)
        file.write(factors.tobytes())
        writer.write_padding(file, factors.nbytes)
    for tensor in made:
        tensor.write(file)
        writer.write_padding(file, tensor.num_bytes)
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("vocabulary", type=Path, help="written by make_vocab.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, help="fewer than the real model's")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begin = time.monotonic()
    make(given.shape, json.loads(given.vocabulary.read_text()), given.out, given.layers, given.seed)
    print(f"{given.out}: {given.out.stat().st_size / 1e9:.3f} GB, {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    main()
