"""Writes small GGUF files of any architecture and format that the project reads: random weights, a whole vocabulary.

In: a path and what is wanted. Out: the file; small enough that a test can write one, large enough that every kernel
has work (256 wide, which the K formats need). The same arguments give the same bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

from vkbackend.ops.packed import FORMATS, PackedMatrix

WIDTH, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, FEED_FORWARD = 256, 4, 2, 64, 512


@dataclass(frozen=True)
class TinyArchitecture:
    """What sets the files of an architecture apart.

    tokenizer: as `tokenizer.ggml.model` names it. is_tied: the output uses the embedding's matrix. norms: further norms
    of a block, name -> the constant of this module that is its size.
    """

    tokenizer: str
    rope_base: float
    has_rope_dimensions: bool = False
    has_window: bool = False
    is_tied: bool = False
    norms: Mapping[str, str] = field(default_factory=dict)


# Elements of matrices in some formats are larger than in real models, so that two layers tell prompts apart clearly.
SIZES = {"q4_1": 0.1, "q5_0": 0.1, "q5_1": 0.2, "q8_0": 0.8}
ARCHITECTURES = {
    "llama": TinyArchitecture("gpt2", rope_base=10000.0, has_rope_dimensions=True),
    "gemma3": TinyArchitecture(
        "llama",
        rope_base=1_000_000.0,
        has_window=True,
        is_tied=True,
        norms={
            "attn_q_norm": "HEAD_DIM",
            "attn_k_norm": "HEAD_DIM",
            "post_attention_norm": "WIDTH",
            "post_ffw_norm": "WIDTH",
        },
    ),
}


def write_tiny_gguf(
    path,
    architecture: str = "llama",
    format: str = "q8_0",
    *,
    num_layers: int = 2,
    context_length: int = 512,
    window: int = 24,
    seed: int = 0,
    chat_template: str = "",
    adds_spaces: bool = False,
    tokenizer: str = "",
    formats: dict[str, str] | None = None,
    fields: dict[str, object] | None = None,
    tensors: dict[str, tuple[int, ...]] | None = None,
    biases: tuple[str, ...] = (),
) -> Path:
    """A model of one of `ARCHITECTURES`, with a byte-level BPE vocabulary or a SentencePiece one.

    tokenizer: "gpt2" or "llama", for another one than the architecture's; adds_spaces: SentencePiece's space before
    a text. format: a name in `ops.packed.FORMATS` for all matrices; formats: {tensor name without ".weight": format}
    for exceptions. window: gemma3's sliding window (its sixth layer, where num_layers reaches it, sees everything).
    biases: names of matrices that have one, such as "attn_q" (in every block) or "output". fields: further metadata
    (bool, int, float, str or list), which replaces what is written here under the same key; tensors: {name: shape} of
    further f32 tensors.
    """
    kind = ARCHITECTURES[architecture]
    writer = GGUFWriter(path, architecture)
    writer.add_name(f"tiny {architecture} {format}")
    _add_shape(writer, kind, num_layers, context_length, window)
    if (tokenizer or kind.tokenizer) == "gpt2":
        vocab_size = _byte_level_vocabulary(writer)
    else:
        vocab_size = _sentencepiece_vocabulary(writer, adds_spaces)
    writer.add_vocab_size(vocab_size)
    if chat_template:
        writer.add_chat_template(chat_template)
    weights = _Weights(writer, seed, format, formats or {}, biases)
    weights.add_model(kind, num_layers, vocab_size)
    for key, value in (fields or {}).items():
        _replace_field(writer, key, value)
    for name, shape in (tensors or {}).items():
        weights.add_uniform(name, shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


def _add_shape(writer: GGUFWriter, kind: TinyArchitecture, num_layers: int, context_length: int, window: int) -> None:
    writer.add_block_count(num_layers)
    writer.add_context_length(context_length)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(kind.rope_base)
    if kind.has_rope_dimensions:
        writer.add_rope_dimension_count(HEAD_DIM)
    if kind.has_window:
        writer.add_sliding_window(window)


def _replace_field(writer: GGUFWriter, key: str, value: object) -> None:
    writer.kv_data[0].pop(key, None)
    if key == "general.alignment":
        writer.data_alignment = value
    {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }[type(value)](key, value)


class _Weights:
    """Adds random tensors. Biases have a generator of their own, so weights are the same with and without them."""

    def __init__(self, writer: GGUFWriter, seed: int, format: str, formats: Mapping[str, str], biases: tuple[str, ...]):
        self._writer, self._format, self._formats, self._biases = writer, format, formats, biases
        self._rng = np.random.default_rng(seed)
        self._bias_rng = np.random.default_rng(seed + 1)

    def add_model(self, kind: TinyArchitecture, num_layers: int, vocab_size: int) -> None:
        self._add_matrix("token_embd", vocab_size, WIDTH)
        self.add_uniform("output_norm.weight", WIDTH)
        if not kind.is_tied:
            self._add_matrix("output", vocab_size, WIDTH)
        for layer in range(num_layers):
            self._add_block(f"blk.{layer}.", {name: globals()[size] for name, size in kind.norms.items()})

    def _add_block(self, block: str, norms: Mapping[str, int]) -> None:
        self.add_uniform(f"{block}attn_norm.weight", WIDTH)
        self._add_matrix(block + "attn_q", NUM_HEADS * HEAD_DIM, WIDTH)
        self._add_matrix(block + "attn_k", NUM_KV_HEADS * HEAD_DIM, WIDTH)
        self._add_matrix(block + "attn_v", NUM_KV_HEADS * HEAD_DIM, WIDTH)
        self._add_matrix(block + "attn_output", WIDTH, NUM_HEADS * HEAD_DIM)
        self.add_uniform(f"{block}ffn_norm.weight", WIDTH)
        self._add_matrix(block + "ffn_gate", FEED_FORWARD, WIDTH)
        self._add_matrix(block + "ffn_up", FEED_FORWARD, WIDTH)
        self._add_matrix(block + "ffn_down", WIDTH, FEED_FORWARD)
        for name, size in norms.items():
            self.add_uniform(f"{block}{name}.weight", size)

    def _add_matrix(self, name: str, rows: int, columns: int) -> None:
        kind = FORMATS[self._formats.get(name, self._format)]
        raw = PackedMatrix.random(self._rng, kind.name, rows, columns, size=SIZES.get(kind.name, 0.05)).raws[0]
        if kind.type is GGMLQuantizationType.F32:
            self._writer.add_tensor(f"{name}.weight", raw.view(np.float32))
        elif kind.type is GGMLQuantizationType.F16:
            self._writer.add_tensor(f"{name}.weight", raw.view(np.float16))
        else:
            self._writer.add_tensor(f"{name}.weight", raw, raw_dtype=kind.type)
        if name.split(".")[-1] in self._biases:
            self._writer.add_tensor(f"{name}.bias", self._bias_rng.standard_normal(rows).astype(np.float32))

    def add_uniform(self, name: str, shape: int | tuple[int, ...]) -> None:
        """An f32 tensor of values from 0.5 to 1.5, as norms have."""
        self._writer.add_tensor(name, self._rng.uniform(0.5, 1.5, shape).astype(np.float32))


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE (Radford et al. 2019: bytes_to_unicode)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _byte_level_vocabulary(writer) -> int:
    characters = _byte_characters()
    space = characters[ord(" ")]
    merges = [
        ("t", "h"),
        ("th", "e"),
        (space, "the"),
        ("i", "n"),
        (space, "a"),
        ("o", "n"),
        ("e", "r"),
        (space, "w"),
        ("r", "e"),
        ("l", "l"),
        ("h", "e"),
        ("he", "ll"),
        ("hell", "o"),
        (space, "s"),
        ("a", "n"),
        ("an", "d"),
        (space, "and"),
    ]
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*control, *characters, *("".join(pair) for pair in merges)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * len(control) + [TokenType.NORMAL] * (len(tokens) - len(control)))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    return len(tokens)


def _sentencepiece_vocabulary(writer, adds_spaces: bool = False) -> int:
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    pieces = [
        "\u2581",
        *"etaoinshrdlucmfwygpbvk",
        "th",
        "in",
        "er",
        "he",
        "\u2581the",
        "\u2581a",
        "an",
        "\u2581s",
        "ing",
        "\u2581w",
    ]
    tokens = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    kinds = [TokenType.CONTROL] * len(control) + [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(pieces)
    kinds[control.index("<unk>")] = TokenType.UNKNOWN
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    # Longer pieces come first: SentencePiece joins the neighbours whose piece has the highest score.
    writer.add_token_scores(
        [0.0] * (len(tokens) - len(pieces)) + [float(len(piece)) - index / 100 for index, piece in enumerate(pieces)]
    )
    writer.add_token_types(kinds)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    if not adds_spaces:
        writer.add_add_space_prefix(False)  # true where the key is missing
    return len(tokens)
