"""Safetensors to GGUF: weights and tokens stay the same, for every form of the input."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from click.testing import CliRunner
from convert_world import TEXTS, converted
from hugging_face_folder import (
    as_hugging_face,
    config_of,
    hugging_face_name,
    tokenizer_of,
    values_of,
    write_folder,
    write_safetensors,
)
from live_server import LiveServer, free_port
from starter_models import model_path
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

from vkbackend.gguf.reader import GGUFFile
from vkbackend.ops import rope
from vkbackend.server.cli.main import cli
from vkbackend.server.library import create
from vkbackend.server.library.convert import llama
from vkbackend.server.library.convert.file_choice import chosen
from vkbackend.server.library.convert.safetensors import SafetensorsFile
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.store import Store
from vkbackend.server.wire import native
from vkbackend.session import Session
from vkbackend.tokenizer import Tokenizer


@pytest.mark.parametrize("dtype, files", [("F32", 1), ("F16", 2), ("BF16", 1)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_and_tokens_come_back(tmp_path, architecture, dtype, files):
    original = GGUFFile.open(write_tiny_gguf(tmp_path / "original.gguf", architecture, "f16"))
    gguf = converted(write_folder(tmp_path / "folder", original, dtype, files), tmp_path / "out.gguf")
    assert list(gguf.tensors) == sorted(original.tensors)
    assert {info.type.name for info in gguf.tensors.values() if len(info.shape) > 1} == {
        "BF16" if dtype == "BF16" else "F16"
    }
    for name, info in gguf.tensors.items():
        before = values_of(original, name)
        assert info.shape == before.shape
        if info.type.name == "BF16":  # cut to eight bits
            np.testing.assert_allclose(values_of(gguf, name), before, rtol=2**-7)
        elif len(info.shape) > 1:
            np.testing.assert_array_equal(values_of(gguf, name), before)
        else:
            assert info.type.name == "F32"
            np.testing.assert_allclose(
                values_of(gguf, name), before, rtol={"F32": 1e-6, "F16": 2e-3, "BF16": 2e-2}[dtype]
            )
    assert gguf.metadata["general.file_type"] == 1  # F16, whatever the matrices are, as in the original
    was, now = Tokenizer.from_gguf(original), Tokenizer.from_gguf(gguf)
    assert (now.bos_id, now.eos_ids, now.adds_bos, now.vocab_size) == (
        was.bos_id,
        was.eos_ids,
        was.adds_bos,
        was.vocab_size,
    )
    for text in TEXTS:
        assert now.encode(text) == was.encode(text), text


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_converted_model_answers_as_the_original(tmp_path, architecture):
    original = write_tiny_gguf(tmp_path / "original.gguf", architecture, "f16")
    converted(write_folder(tmp_path / "folder", GGUFFile.open(original)), tmp_path / "out.gguf")
    was, now = Session(original), Session(tmp_path / "out.gguf")
    tokens = was.tokenizer.encode("the and hell on in the hell")
    np.testing.assert_allclose(now.logits(tokens), was.logits(tokens), rtol=1e-4, atol=1e-4)


def test_turned_neighbours_are_turned_halves(tmp_path):
    """The purpose of the row order: q times k of a head is the same in both conventions, at any distance."""
    rng = np.random.default_rng(0)
    heads, head_dim, width = 3, 16, 32
    turns, positions = rope.turns_per_position(10000.0, head_dim), np.array([5, 17], np.int32)
    x = rng.standard_normal((2, width)).astype(np.float32)
    products = []
    q, k = (rng.standard_normal((heads * head_dim, width)).astype(np.float32) for _ in range(2))
    for pairing, order in (
        ("halves", np.arange(heads * head_dim)),
        ("adjacent", llama.neighbours(heads * head_dim, heads)),
    ):
        turned = [
            rope.reference(
                (x @ weight[order].T).reshape(2, heads, head_dim), positions, turns, n_rot=head_dim, pairing=pairing
            )
            for weight in (q, k)
        ]
        products.append(np.einsum("hd,hd->h", turned[0][0], turned[1][1]))
    np.testing.assert_allclose(products[1], products[0], rtol=1e-4)


def test_smollm2_comes_back(tmp_path):
    """A real model (two layers of it), its weights expanded to float32 and named as Hugging Face names them."""
    original = GGUFFile.open(model_path("smollm2"))
    heads = {"attn_q": 9, "attn_k": 3}
    some = [name for name in original.tensors if not name.startswith("blk.") or name.startswith(("blk.0.", "blk.1."))]
    tensors = {
        hugging_face_name(name, "llama"): as_hugging_face(name, values_of(original, name), "llama", heads)
        for name in some
    }
    write_safetensors(tmp_path / "model.safetensors", tensors)
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlamaForCausalLM"],
                "hidden_size": 576,
                "intermediate_size": 1536,
                "num_hidden_layers": 2,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "max_position_embeddings": 8192,
                "rms_norm_eps": 1e-5,
                "rope_theta": 100000,
                "vocab_size": 49152,
            }
        )
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_of(original)))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "bos_token": "<|im_start|>",
                "eos_token": "<|im_end|>",
                "unk_token": "<|endoftext|>",
                "pad_token": "<|im_end|>",
                "add_bos_token": False,
                "chat_template": original.metadata["tokenizer.chat_template"],
            }
        )
    )
    gguf = converted({path.name: path for path in tmp_path.iterdir()}, tmp_path / "out.gguf")
    for name in some:
        before = values_of(original, name)
        np.testing.assert_array_equal(values_of(gguf, name), before.astype(np.float16) if before.ndim > 1 else before)
    # Beside what a name or a licence is: every key of the original with its value, except what says how it is
    # quantized.
    for key in original.metadata:
        if key.startswith(("llama.", "tokenizer.")) and key not in (
            "tokenizer.ggml.add_space_prefix",
            "llama.block_count",
        ):
            assert np.array_equal(gguf.metadata[key], original.metadata[key]), key
    assert Tokenizer.from_gguf(gguf).encode(" ".join(TEXTS)) == Tokenizer.from_gguf(original).encode(" ".join(TEXTS))


def test_of_both_forms_of_a_model_the_split_one_counts(tmp_path):
    original = GGUFFile.open(write_tiny_gguf(tmp_path / "original.gguf", "llama", "f16"))
    files = write_folder(tmp_path / "folder", original, "F16", files=2)
    write_safetensors(
        tmp_path / "folder" / "consolidated.safetensors", {"layers.0.attention.wq.weight": np.ones((4, 4), np.float32)}
    )
    gguf = converted(
        files | {"consolidated.safetensors": tmp_path / "folder" / "consolidated.safetensors"}, tmp_path / "out.gguf"
    )
    np.testing.assert_array_equal(values_of(gguf, "blk.1.ffn_up.weight"), values_of(original, "blk.1.ffn_up.weight"))
    assert chosen(["b/consolidated.safetensors", "model-00001-of-00001.safetensors", "x.json"]) == [
        "model-00001-of-00001.safetensors"
    ]
    assert chosen(["consolidated.safetensors", "model.safetensors"]) == ["model.safetensors"]
    assert chosen(["consolidated.safetensors"]) == ["consolidated.safetensors"]
    assert chosen(["consolidated.00.safetensors", "other.safetensors"]) == [
        "consolidated.00.safetensors",
        "other.safetensors",
    ]


def test_llama3_factors():
    """Of Llama 3.1 (base 500,000, heads of 128): quick pairs as they are, slow ones eight times slower, between them
    rising.
    """
    _, tensors = llama.metadata(
        llama.Config(
            {
                "architectures": ["LlamaForCausalLM"],
                "hidden_size": 4096,
                "intermediate_size": 14336,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "max_position_embeddings": 131072,
                "vocab_size": 128256,
                "rope_theta": 500000.0,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            }
        )
    )
    factors = tensors["rope_freqs.weight"]
    assert factors.shape == (64,) and set(factors[:29]) == {1.0} and set(factors[35:]) == {8.0}
    assert (np.diff(factors) >= 0).all() and 1 < factors[30] < 8
    # By hand for pair 31: 8192 / (2 pi 500000^(62/128)) = 2.26 turns, a third and a bit of the way from slow (1) to
    # quick (4).
    turns = 8192 / (2 * np.pi * 500000 ** (62 / 128))
    share = (turns - 1) / 3
    assert factors[31] == pytest.approx(1 / ((1 - share) / 8 + share), rel=1e-5)


def test_of_a_model_with_vision_the_text_part_is_taken(tmp_path):
    """Names and config.json as Gemma3ForConditionalGeneration has them, in both orders of its parts; an output of
    its own is tied.
    """
    original = GGUFFile.open(write_tiny_gguf(tmp_path / "o.gguf", "gemma3", "f16"))
    files = write_folder(tmp_path / "folder", original)
    text, weights = config_of(original), SafetensorsFile(files["model.safetensors"], "model.safetensors").tensors
    del text["architectures"], text["rms_norm_eps"]
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": text,
        "vision_config": {"hidden_size": 1152},
    }
    files["config.json"].write_text(json.dumps(config))
    plain = {name: tensor.rows(slice(None)).reshape(tensor.shape) for name, tensor in weights.items()}
    vision = np.ones((4, 4), np.float32)
    for front, others in (
        (
            "language_model.model.",
            ("vision_tower.x.weight", "multi_modal_projector.y", "language_model.lm_head.weight"),
        ),
        ("model.language_model.", ("model.vision_tower.x.weight", "model.multi_modal_projector.y", "lm_head.weight")),
    ):
        renamed = {front + name.removeprefix("model."): values for name, values in plain.items()}
        write_safetensors(files["model.safetensors"], renamed | dict.fromkeys(others, vision))
        gguf = converted(files, tmp_path / "out.gguf")
        assert list(gguf.tensors) == sorted(original.tensors) and gguf.metadata[
            "gemma3.attention.layer_norm_rms_epsilon"
        ] == pytest.approx(1e-6)
        np.testing.assert_array_equal(
            values_of(gguf, "blk.1.attn_q.weight"), values_of(original, "blk.1.attn_q.weight")
        )


def test_create_tells_its_steps_and_leaves_nothing_behind(tmp_path):
    store = Store(tmp_path / "store")
    files = write_folder(
        tmp_path / "folder",
        GGUFFile.open(write_tiny_gguf(tmp_path / "o.gguf", "llama", "f16", chat_template="{{ x }}")),
        "F16",
    )
    digests = {}
    for name, path in files.items():
        with store.upload() as upload:
            upload.write(path.read_bytes())
            digests[name] = upload.finish()
    steps = []
    request = native.CreateRequest(model="m", files=digests)
    create.create(
        store,
        request,
        parse_name("m"),
        lambda status, digest="", total=0, completed=0: steps.append((status, total, completed)),
    )
    model = store.get("m")
    layer = model.model_layer.digest
    assert [status for status, *_ in steps] == [
        "converting model",
        f"creating new layer {layer}",
        "writing manifest",
        "success",
    ]
    assert not any(total for _, total, _ in steps)
    assert (
        model.config["file_type"] == "F16"
        and model.parent == ""
        and [path.name for path in store.staging.folder.iterdir()] == ["lock"]
    )
    assert Session(model.gguf_path).logits([1, 2, 3]).shape[0] == 3


@pytest.mark.parametrize("serves", [False, True])
def test_the_command_takes_a_folder_as_it_was_published(tmp_path, monkeypatch, serves):
    """With a Modelfile and without, in the store directly and through a server; of both forms of the weights the
    right one is sent.
    """
    folder = tmp_path / "folder"
    write_folder(folder, GGUFFile.open(write_tiny_gguf(tmp_path / "o.gguf", "llama", "f16")), "F16", files=2)
    write_safetensors(folder / "consolidated.safetensors", {"tok_embeddings.weight": np.ones((4, 4), np.float32)})
    (folder / "README.md").write_text("# A model")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("VKBACKEND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    with LiveServer(tmp_path / "models") if serves else nullcontext() as server:
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.port if serves else free_port()}")
        (tmp_path / "Modelfile").write_text("FROM ./folder\nSYSTEM Be kind.")
        (tmp_path / "One").write_text("FROM ./folder/model-00001-of-00002.safetensors")
        result = CliRunner().invoke(cli, ["create", "half", "-f", str(tmp_path / "One")])
        assert (
            result.exit_code == 1 and "a safetensors file is missing, provide all of them" in result.output
        )  # but config.json came with it
        for arguments in (
            ["plain"],
            ["small", "-q", "q8_0"],
            ["kind", "-f", str(tmp_path / "Modelfile"), "-q", "Q4_K"],
        ):
            result = CliRunner().invoke(cli, ["create", *arguments])
            assert result.exit_code == 0, result.output
            assert result.output.count("converting model") == 1 and "success" in result.output
        refused = CliRunner().invoke(cli, ["create", "none", "-q", "q9"])
        assert refused.exit_code == 1 and "unsupported quantization type Q9" in refused.output
    store = Store(tmp_path / "models")
    levels = {model.name: model.config["file_type"] for model in store.list()}
    assert levels == {"plain:latest": "F16", "small:latest": "Q8_0", "kind:latest": "Q4_K_M"}
    assert store.get("kind").system == "Be kind." and Session(store.get("small").gguf_path).logits([1, 2]).shape[0] == 2
