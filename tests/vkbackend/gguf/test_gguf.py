"""The GGUF reader against gguf's own, on files that are whole, cut short or damaged; formats against gguf's
dequantization.
"""

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from starter_models import FILES as STARTER_MODELS
from starter_models import model_path
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

from vkbackend.errors import GGUFError, UnsupportedModel, VkbackendError
from vkbackend.gguf.quants import FORMATS as BY_TYPE
from vkbackend.gguf.reader import GGUFFile
from vkbackend.models import load as models
from vkbackend.models.load import load
from vkbackend.ops.packed import FORMATS, PackedMatrix


def same_as_gguf(path, arrays: bool) -> None:
    """Every tensor and every metadata value as gguf.GGUFReader finds them (arrays only where asked: its way is
    slow).
    """
    ours, theirs = GGUFFile.open(path), gguf.GGUFReader(path)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert (info.shape, info.type, info.offset, info.num_bytes) == (
            tuple(int(size) for size in tensor.shape)[::-1],
            tensor.tensor_type,
            tensor.data_offset,
            tensor.n_bytes,
        ), tensor.name
    some = theirs.tensors[len(theirs.tensors) // 2]
    np.testing.assert_array_equal(ours.data(some.name), np.asarray(some.data).reshape(-1).view(np.uint8))
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert set(ours.metadata) == set(fields)
    for key, field in fields.items():
        if field.types[0] is gguf.GGUFValueType.ARRAY and not arrays:
            continue
        found, expected = ours.metadata[key], field.contents()
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == expected, key


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiny_file_as_gguf_reads_it(tmp_path, architecture):
    same_as_gguf(
        write_tiny_gguf(tmp_path / "tiny.gguf", architecture, "q5_k", chat_template="{{ messages }}"), arrays=True
    )


def test_real_file_as_gguf_reads_it():
    same_as_gguf(model_path("smollm2"), arrays=False)


@pytest.mark.parametrize("name", STARTER_MODELS)
def test_real_tensors_pack_and_dequantize(name):
    """Some rows of one tensor of every format in a real file: gguf's values, and no byte lost in packing."""
    opened, seen = GGUFFile.open(model_path(name)), set()
    for info in opened.tensors.values():
        if info.type in seen or len(info.shape) != 2:
            continue
        seen.add(info.type)
        kind = BY_TYPE[info.type]
        raw = opened.data(info.name).reshape(info.shape[0], -1)[:11]
        np.testing.assert_array_equal(kind.dequantize(raw), gguf.quants.dequantize(raw, info.type))
        np.testing.assert_array_equal(
            unpack(kind, *packed(kind, raw, info.shape[1]), 11, info.shape[1]), kind.dequantize(raw)
        )
    assert seen


def packed(kind, raw, k):
    quants, scales = (np.full(size, 0xA5, np.uint8) for size in kind.packed_shape(len(raw), k))
    kind.pack(raw, quants, scales)
    return quants, scales


def unpack(kind, quants, scales, rows, k):
    """The packed layout of shaders/quant/README.md read element by element: a second, slow opinion beside the
    shaders'.
    """
    q = quants.view(np.uint32).reshape(-1, 4)
    s = scales.view(np.uint32)
    nb = k // 32
    half = lambda word, which: np.uint16(word >> 16 * which & 0xFFFF).view(np.float16).astype(np.float32)
    y = np.empty((rows, k), np.float32)
    for row in range(rows):
        g, l = divmod(row, 64)
        for b in range(nb):

            def vectors(count):
                return np.concatenate([q[((g * nb + b) * count + j) * 64 + l] for j in range(count)])

            block = y[row, b * 32 : b * 32 + 32]
            if kind.name == "f32":
                block[:] = vectors(8).view(np.float32)
                continue
            if kind.name in ("f16", "bf16"):
                words = vectors(4)
                block[:] = (
                    words.view(np.float16).astype(np.float32)
                    if kind.name == "f16"
                    else (words.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
                )
                continue
            pairs = -(-nb // 2)
            if kind.name == "q8_0":
                block[:] = (vectors(2).view(np.uint8).astype(np.float32) - 128) * half(
                    s[(g * pairs + b // 2) * 64 + l], b & 1
                )
                continue
            if kind.name in ("q2_k", "q3_k"):
                words = 5 if kind.name == "q2_k" else 13
                at = lambda t: s[((g * (nb // 8) + b // 8) * words + t) * 64 + l]
                n, u, c = (
                    each.reshape(-1).astype(np.uint32) for each in np.indices((4, 2, 4))
                )  # of element 8n + 4u + c
                i, two = b % 8, q[(g * (nb // 2) + b // 2) * 64 + l][b % 2 * 2 :][:2]
                code = two[u] >> (8 * c + 2 * n) & 3
                if kind.name == "q2_k":
                    sm = np.array([at(1 + i // 2) >> (16 * (i & 1) + 8 * half_) & 255 for half_ in range(2)])
                    d, m = half(at(0), 0) * (sm & 15).astype(np.float32), half(at(0), 1) * (sm >> 4).astype(np.float32)
                    block[:] = code.astype(np.float32) * np.repeat(d, 16) - np.repeat(m, 16)
                else:
                    code = code | (at(5 + i) >> (8 * c + 2 * n + u) & 1) << 2
                    scale = np.array(
                        [at(1 + i // 2) >> (16 * (i & 1) + 8 * half_) & 255 for half_ in range(2)], np.uint8
                    ).view(np.int8)
                    block[:] = (code.astype(np.float32) - 4) * (
                        half(at(0), 0) * np.repeat(scale.astype(np.float32), 16)
                    )
                continue
            bytes_ = q[(g * nb + b) * 64 + l].view(np.uint8)
            code = np.concatenate([bytes_ & 15, bytes_ >> 4]).astype(np.uint32)
            h, w, c = (each.reshape(-1).astype(np.uint32) for each in np.indices((2, 4, 4)))  # of element 16h + 4w + c
            bits = lambda word: word >> (4 * (2 * c + h) + w) & 1
            if kind.name == "q4_0":
                block[:] = (code.astype(np.float32) - 8) * half(s[(g * pairs + b // 2) * 64 + l], b & 1)
            elif kind.name == "q4_1":
                word = s[(g * nb + b) * 64 + l]
                block[:] = code.astype(np.float32) * half(word, 0) + half(word, 1)
            elif kind.name == "q5_0":
                at = lambda t: s[((g * pairs + b // 2) * 3 + t) * 64 + l]
                block[:] = ((code | bits(at(b & 1)) << 4).astype(np.float32) - 16) * half(at(2), b & 1)
            elif kind.name == "q5_1":
                at = lambda t: s[((g * nb + b) * 2 + t) * 64 + l]
                block[:] = (code | bits(at(0)) << 4).astype(np.float32) * half(at(1), 0) + half(at(1), 1)
            elif kind.name in ("q4_k", "q5_k"):
                words = 5 if kind.name == "q4_k" else 13
                at = lambda t: s[((g * (nb // 8) + b // 8) * words + t) * 64 + l]
                i = b % 8
                sc, m = at(1 + i // 2) >> 16 * (i & 1) & 255, at(1 + i // 2) >> 16 * (i & 1) + 8 & 255
                if kind.name == "q5_k":
                    code = code | bits(at(5 + i)) << 4
                block[:] = code.astype(np.float32) * (half(at(0), 0) * np.float32(sc)) - half(at(0), 1) * np.float32(m)
            elif kind.name == "q6_k":
                at = lambda t: s[((g * (nb // 8) + b // 8) * 21 + t) * 64 + l]
                i = b % 8
                high = np.where(w < 2, at(5 + 2 * i), at(6 + 2 * i)) >> (4 * (2 * c + h) + 2 * (w % 2)) & 3
                scale = np.array(
                    [at(1 + (2 * i + half_) // 4) >> 8 * ((2 * i + half_) % 4) & 255 for half_ in range(2)], np.uint8
                ).view(np.int8)
                block[:] = ((code | high << 4).astype(np.float32) - 32) * (
                    half(at(0), 0) * np.repeat(scale.astype(np.float32), 16)
                )
            else:
                raise AssertionError(f"no second opinion about {kind.name}: write its layout here")
    return y


@pytest.mark.parametrize("name", FORMATS)
def test_packed_layout_holds_every_bit(name):
    """An odd number of rows and, where blocks are small, of blocks; what fills the last group of rows is zero."""
    kind = FORMATS[name]
    k = 512 if kind.block_size == 256 else 96
    matrix = PackedMatrix.random(np.random.default_rng(3), name, 77, k)
    np.testing.assert_array_equal(matrix.array(), gguf.quants.dequantize(matrix.raws[0], kind.type))
    quants, scales = packed(kind, matrix.raws[0], k)
    np.testing.assert_array_equal(unpack(kind, quants, scales, 77, k), matrix.array())
    filled = PackedMatrix(
        name, (128, k), kind, [np.concatenate([matrix.raws[0], np.zeros((51, matrix.raws[0].shape[1]), np.uint8)])]
    )
    np.testing.assert_array_equal(unpack(kind, quants, scales, 128, k), filled.array())


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].block_size == 32 or name == "bf16"])
def test_formats_of_ggufs_own_quantization(name):
    """Values quantized by gguf, not random bytes: the round trip stays within the format's step."""
    x = np.random.default_rng(1).standard_normal((5, 64), np.float32)
    raw = gguf.quants.quantize(x, FORMATS[name].type)
    np.testing.assert_array_equal(
        FORMATS[name].dequantize(raw.view(np.uint8)), gguf.quants.dequantize(raw, FORMATS[name].type)
    )
    assert np.abs(FORMATS[name].dequantize(raw.view(np.uint8)) - x).max() < 0.5


def test_metadata_types_are_checked(tmp_path):
    metadata = GGUFFile.open(write_tiny_gguf(tmp_path / "tiny.gguf")).metadata
    assert metadata.get("llama.block_count", int) == 2
    assert metadata.get("llama.block_count", float) == 2.0
    assert metadata.get("tokenizer.ggml.add_bos_token", bool) is False
    assert len(metadata.get("tokenizer.ggml.tokens", list)) == 276
    assert metadata.get("llama.nothing", int, 7) == 7
    with pytest.raises(GGUFError, match="llama.nothing is missing"):
        metadata.get("llama.nothing", int)
    with pytest.raises(GGUFError, match="general.architecture is str, not int"):
        metadata.get("general.architecture", int)
    with pytest.raises(GGUFError, match="add_bos_token is bool, not int"):
        metadata.get("tokenizer.ggml.add_bos_token", int)


# A GGUF made by hand, so that every field can be made wrong.


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name=b"w.weight", shape=(32, 2), kind=0, offset=0, dimensions=None) -> bytes:
    count = len(shape) if dimensions is None else dimensions
    return (
        text(name)
        + struct.pack("<I", count)
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", kind, offset)
    )


ARCHITECTURE = pair(b"general.architecture", 8, text(b"llama"))


def write(
    path: Path,
    pairs=(ARCHITECTURE,),
    tensors=(tensor(),),
    *,
    magic=b"GGUF",
    version=3,
    num_pairs=None,
    num_tensors=None,
    data=256,
) -> Path:
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if num_tensors is None else num_tensors,
        len(pairs) if num_pairs is None else num_pairs,
    )
    head += b"".join(pairs) + b"".join(tensors)
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(data))
    return path


def test_file_made_by_hand_opens(tmp_path):
    opened = GGUFFile.open(write(tmp_path / "hand.gguf"))
    assert opened.tensors["w.weight"].shape == (2, 32)
    assert opened.data("w.weight").nbytes == 256
    assert not opened.data("w.weight").flags.writeable
    with pytest.raises(GGUFError, match="nothing.weight"):
        opened.data("nothing.weight")


@pytest.mark.parametrize(
    "said, options",
    [
        ("does not begin with 'GGUF'", dict(magic=b"GGML")),
        ("version 1", dict(version=1)),
        ("version 4", dict(version=4)),
        ("big-endian", dict(version=3 << 24)),
        ("claims 9223372036854775808 tensors", dict(num_tensors=1 << 63)),
        ("18446744073709551615 metadata pairs", dict(num_pairs=(1 << 64) - 1)),
        ("cut short or damaged", dict(num_tensors=2, data=0)),
        ("key general.architecture stands twice", dict(pairs=(ARCHITECTURE, ARCHITECTURE))),
        ("tensor w.weight stands twice", dict(tensors=(tensor(), tensor(offset=256)), data=512)),
        ("metadata key k has value type 99", dict(pairs=(pair(b"k", 99, bytes(8)),))),
        ("array of arrays", dict(pairs=(pair(b"k", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 4, 0)),))),
        ("k claims 1152921504606846976 strings", dict(pairs=(pair(b"k", 9, struct.pack("<IQ", 8, 1 << 60)),))),
        (
            "the strings of k run past the end",
            dict(pairs=(pair(b"k", 9, struct.pack("<IQQ", 8, 3, 1 << 62) + bytes(64)),)),
        ),
        ("the value of k", dict(pairs=(pair(b"k", 9, struct.pack("<IQ", 10, 1 << 61)),))),
        ("the value of k", dict(pairs=(pair(b"k", 8, struct.pack("<Q", 1 << 39)),))),
        ("a metadata key of 70000 bytes", dict(pairs=(pair(b"k" * 70000, 4, bytes(4)),))),
        ("general.alignment is 24", dict(pairs=(pair(b"general.alignment", 4, struct.pack("<I", 24)),))),
        ("general.alignment is 0", dict(pairs=(pair(b"general.alignment", 4, struct.pack("<I", 0)),))),
        ("general.alignment is str, not int", dict(pairs=(pair(b"general.alignment", 8, text(b"32")),))),
        ("w.weight has 0 dimensions", dict(tensors=(tensor(shape=()),))),
        ("w.weight has 5 dimensions", dict(tensors=(tensor(shape=(1, 1, 1, 1, 32)),))),
        ("w.weight has 4294967295 dimensions", dict(tensors=(tensor(dimensions=(1 << 32) - 1),))),
        ("w.weight has shape (0, 32)", dict(tensors=(tensor(shape=(32, 0)),))),
        ("w.weight has shape (4611686018427387904, 32)", dict(tensors=(tensor(shape=(32, 1 << 62)),))),
        ("rows of 33, not a multiple of 32", dict(tensors=(tensor(shape=(33, 2), kind=2),))),
        ("w.weight begins at 8, which is not aligned to 32", dict(tensors=(tensor(offset=8),))),
        ("cut short: tensor w.weight needs bytes", dict(data=255)),
        ("cut short: tensor w.weight needs bytes", dict(tensors=(tensor(offset=(1 << 64) - 32),))),
    ],
)
def test_damaged_file_is_named(tmp_path, said, options):
    path = write(tmp_path / "bad.gguf", **options)
    with pytest.raises(VkbackendError) as caught:
        GGUFFile.open(path)
    assert said in str(caught.value) and str(path) in str(caught.value)


def test_unknown_tensor_type_is_not_called_damage(tmp_path):
    with pytest.raises(UnsupportedModel, match="w.weight has type 4711"):
        GGUFFile.open(write(tmp_path / "new.gguf", tensors=(tensor(kind=4711),)))


@pytest.mark.parametrize("size", [0, 3, 4, 23])
def test_file_shorter_than_a_header(tmp_path, size):
    path = tmp_path / "short.gguf"
    path.write_bytes(b"GGUF".ljust(24, b"\0")[:size])
    with pytest.raises(GGUFError, match="too few"):
        GGUFFile.open(path)


def test_folder_and_missing_file_raise_what_the_system_says(tmp_path):
    with pytest.raises(OSError):
        GGUFFile.open(tmp_path / "nothing.gguf")
    with pytest.raises(OSError):
        GGUFFile.open(tmp_path)


def test_every_truncation_is_refused(tmp_path):
    """Cut at every byte of a small header, and at the last byte of the data."""
    whole = write(
        tmp_path / "whole.gguf",
        pairs=(
            ARCHITECTURE,
            pair(b"a", 9, struct.pack("<IQ", 8, 2) + text(b"one") + text(b"two")),
            pair(b"n", 9, struct.pack("<IQ", 5, 3) + bytes(12)),
        ),
    ).read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in range(len(whole)):
        cut.write_bytes(whole[:size])
        with pytest.raises(GGUFError):
            GGUFFile.open(cut)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_random_damage_never_escapes(tmp_path, architecture):
    """Bytes changed or cut in the header of a whole model: it loads, or an error meant for users says why."""
    rng = np.random.default_rng(11)
    path, bad = write_tiny_gguf(tmp_path / "tiny.gguf", architecture, "q4_0"), tmp_path / "bad.gguf"
    whole = bytearray(path.read_bytes())
    header = min(info.offset for info in GGUFFile.open(path).tensors.values())
    # Half of the damage goes where it hurts: hyperparameters before the vocabulary, tensor infos after it.
    vocabulary = whole.index(b"tokenizer.ggml.tokens"), whole.rindex(b"tokenizer.ggml.")
    refused = 0
    for turn in range(300):
        damaged = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(0, header))
            if turn % 2 and vocabulary[0] < at < vocabulary[1]:
                at = int(rng.integers(vocabulary[1], header))
            damaged[at] = int(rng.integers(0, 256))
        if turn % 10 == 0:
            del damaged[int(rng.integers(0, len(damaged))) :]
        bad.write_bytes(damaged)
        try:
            for value in (opened := GGUFFile.open(bad)).metadata:
                opened.metadata[value]
            load(bad)
        except VkbackendError as error:
            refused += 1
            assert str(error)
    assert refused > 30


@pytest.mark.parametrize(
    "name, said",
    [
        ("blk.1.attn_k", "blk.1.attn_k.weight"),
        ("output_norm", "output_norm.weight"),
        ("token_embd", "token_embd.weight"),
    ],
)
def test_missing_tensor_is_named(tmp_path, name, said):
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes().replace(text(f"{name}.weight".encode()), text(f"{name}.wEight".encode())))
    with pytest.raises(GGUFError, match=said):
        load(path)


def test_unknown_architecture_is_named(tmp_path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes().replace(text(b"llama"), text(b"lamma"), 1))
    with pytest.raises(UnsupportedModel, match="'lamma'; readable here: gemma3, llama"):
        load(path)


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("attention.head_count", 0, "llama.attention.head_count is 0"),
        ("attention.head_count", 3, "3 heads of 64"),
        ("attention.head_count_kv", 1, r"blk.0.attn_k.weight has shape \(128, 256\), the metadata ask for \(64, 256\)"),
        ("attention.key_length", 72, "heads of 72|attn_q.weight has shape"),
        ("rope.dimension_count", 63, "of which 63 rotate"),
        ("rope.dimension_count", 1 << 30, "rope.dimension_count is 1073741824"),
        ("embedding_length", 128, r"token_embd.weight has shape \(276, 256\)"),
        ("feed_forward_length", 256, r"blk.0.ffn_gate.weight has shape \(512, 256\)"),
        ("block_count", 3, "tensor blk.2.attn_norm.weight is missing"),
        ("attention.layer_norm_rms_epsilon", float("nan"), "epsilon is nan"),
        ("rope.freq_base", 0.0, "rope.freq_base is 0.0"),
        ("attention.key_length", 1 << 24, r"blk.0.attn_q.weight has shape \(256, 256\)"),
        ("block_count", 1 << 24, "blk.16777215.attn_norm.weight is missing"),
        ("feed_forward_length", 1 << 24, "blk.0.ffn_gate.weight has shape"),
    ],
)
def test_contradictory_hyperparameters_are_named(tmp_path, key, value, said):
    """What a kernel would read out of bounds by, or memory would run out over, is refused when the model is loaded."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    whole = path.read_bytes()
    at = whole.index(text(f"llama.{key}".encode())) + 8 + len(f"llama.{key}") + 4
    path.write_bytes(whole[:at] + struct.pack("<f" if isinstance(value, float) else "<I", value) + whole[at + 4 :])
    with pytest.raises(VkbackendError, match=said):
        load(path)


@pytest.mark.parametrize(
    "key, value",
    [
        ("attention.key_length", 1 << 24),
        ("block_count", 1 << 24),
        ("feed_forward_length", 1 << 24),
        ("embedding_length", 1 << 24),
        ("attention.head_count", 1 << 23),
    ],
)
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_hyperparameters_cost_nothing_before_they_are_compared_with_the_tensors(tmp_path, architecture, key, value):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", architecture, fields={f"{architecture}.{key}": value})
    tracemalloc.start()
    try:
        with pytest.raises(VkbackendError):
            models.read(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("number, pairs", [(1, (ARCHITECTURE,)), (2, ())])
def test_a_part_of_a_split_file_is_named(tmp_path, number, pairs):
    split = (pair(b"split.no", 2, struct.pack("<H", number - 1)), pair(b"split.count", 2, struct.pack("<H", 2)))
    with pytest.raises(UnsupportedModel, match=f"is part {number} of 2 of a split GGUF.*llama-gguf-split --merge"):
        GGUFFile.open(write(tmp_path / "part.gguf", (*pairs, *split)))


def test_a_split_file_of_one_part_is_whole(tmp_path):
    split = (pair(b"split.no", 2, struct.pack("<H", 0)), pair(b"split.count", 2, struct.pack("<H", 1)))
    assert GGUFFile.open(write(tmp_path / "whole.gguf", (ARCHITECTURE, *split))).tensors
