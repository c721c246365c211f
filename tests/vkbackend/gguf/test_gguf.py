"""The GGUF reader against gguf's own, on whole, truncated and damaged files."""

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from starter_models import model_path
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

from vkbackend import loading
from vkbackend.errors import GGUFError, UnsupportedModel, VkbackendError
from vkbackend.gguf.formats import mxfp4
from vkbackend.gguf.reader import GGUFFile
from vkbackend.loading import load


def same_as_gguf(path, arrays: bool) -> None:
    """Compare every tensor and metadata value with gguf.GGUFReader's (arrays only if asked: it reads them slowly)."""
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
TENSOR = tensor()


def write(
    path: Path,
    pairs=(ARCHITECTURE,),
    tensors=(TENSOR,),
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


def test_mxfp4_of_early_files_is_put_into_ggmls_order(tmp_path, monkeypatch):
    """Ollama's number for it was 4, and each byte had two neighbouring elements, the first one low."""
    monkeypatch.setattr(mxfp4, "SLAB", 3)
    rng = np.random.default_rng(8)
    elements, exponents = rng.integers(0, 16, (8, 32), np.uint8), rng.integers(100, 150, (8, 1), np.uint8)
    found = []
    for kind, low, high in ((4, elements[:, ::2], elements[:, 1::2]), (39, elements[:, :16], elements[:, 16:])):
        path = write(tmp_path / f"{kind}.gguf", tensors=[tensor(shape=(64, 4), kind=kind)], data=0)
        with open(path, "ab") as file:
            file.write(np.concatenate([exponents, low | high << 4], axis=1).tobytes())
        opened = GGUFFile.open(path)
        assert opened.tensors["w.weight"].type == 39 and not opened.data("w.weight").flags.writeable
        found.append(opened.data("w.weight"))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("number", [24, 25, 26, 27, 28])
def test_types_without_kernels_are_refused_by_name(tmp_path, number):
    """Integers and doubles."""
    name = gguf.GGMLQuantizationType(number).name
    path = write(tmp_path / "odd.gguf", tensors=[tensor(shape=(8, 2), kind=number)])
    with pytest.raises(UnsupportedModel, match=rf"w.weight is {name}; readable here: F32, F16, Q4_0"):
        load(path, None)


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
        ("key general.architecture occurs twice", dict(pairs=(ARCHITECTURE, ARCHITECTURE))),
        ("tensor w.weight occurs twice", dict(tensors=(tensor(), tensor(offset=256)), data=512)),
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
    with pytest.raises(UnsupportedModel, match="w.weight has the unknown type 4711"):
        GGUFFile.open(write(tmp_path / "new.gguf", tensors=(tensor(kind=4711),)))


@pytest.mark.parametrize("size", [0, 3, 4, 23])
def test_file_shorter_than_a_header(tmp_path, size):
    path = tmp_path / "short.gguf"
    path.write_bytes(b"GGUF".ljust(24, b"\0")[:size])
    with pytest.raises(GGUFError, match="it has only"):
        GGUFFile.open(path)


def test_folder_and_missing_file_raise_what_the_system_says(tmp_path):
    with pytest.raises(OSError):
        GGUFFile.open(tmp_path / "nothing.gguf")
    with pytest.raises(OSError):
        GGUFFile.open(tmp_path)


def test_every_truncation_is_refused(tmp_path):
    """A file cut at any byte of a small header, or at the last byte of the data."""
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
    """A model with bytes of its header changed or removed loads, or fails with an error for users."""
    rng = np.random.default_rng(11)
    path, bad = write_tiny_gguf(tmp_path / "tiny.gguf", architecture, "q4_0"), tmp_path / "bad.gguf"
    whole = bytearray(path.read_bytes())
    header = min(info.offset for info in GGUFFile.open(path).tensors.values())
    # Half of the damage goes to the critical parts: hyperparameters before the vocabulary, tensor infos after it.
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
    with pytest.raises(UnsupportedModel, match=f"'lamma'; readable here: {', '.join(loading.ARCHITECTURES)}"):
        load(path)


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("attention.head_count", 0, "llama.attention.head_count is 0"),
        ("attention.head_count", 3, "3 heads of 64"),
        ("attention.head_count_kv", 1, r"blk.0.attn_k.weight has shape \(128, 256\), the metadata says \(64, 256\)"),
        ("attention.key_length", 72, "heads of 72|attn_q.weight has shape"),
        ("rope.dimension_count", 63, "of which 63 rotate"),
        ("rope.dimension_count", 1 << 30, "rope.dimension_count is 1073741824"),
        ("embedding_length", 128, r"token_embd.weight has shape \(276, 256\)"),
        ("feed_forward_length", 256, r"blk.0.ffn_gate.weight has shape \(512, 256\)"),
        ("block_count", 3, "tensors of blk.2 are missing, but the metadata says there are 3 layers"),
        ("attention.layer_norm_rms_epsilon", float("nan"), "epsilon is nan"),
        ("rope.freq_base", 0.0, "rope.freq_base is 0.0"),
        ("attention.key_length", 1 << 24, r"blk.0.attn_q.weight has shape \(256, 256\)"),
        ("block_count", 1 << 24, "tensors of blk.16777215 are missing"),
        ("feed_forward_length", 1 << 24, "blk.0.ffn_gate.weight has shape"),
    ],
)
def test_contradictory_hyperparameters_are_named(tmp_path, key, value, said):
    """Values that make kernels read out of bounds, or exhaust memory, are rejected when the model is loaded."""
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
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hyperparameters_cost_nothing_before_they_are_compared_with_the_tensors(tmp_path, architecture, key, value):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", architecture, fields={f"{architecture}.{key}": value})
    tracemalloc.start()
    try:
        with pytest.raises(VkbackendError):
            loading.read(path)
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
