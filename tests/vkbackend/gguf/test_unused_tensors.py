"""Features of a file that its model does not support are errors, never silently wrong answers."""

import pytest
from tiny_gguf import ARCHITECTURES, FEED_FORWARD, HEAD_DIM, WIDTH, write_tiny_gguf

from vkbackend.errors import GGUFError, UnsupportedModel
from vkbackend.loading import load
from vkbackend.session import Session


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "name, shape",
    [
        ("blk.0.attn_norm.bias", (WIDTH,)),
        ("blk.1.ffn_norm.bias", (WIDTH,)),
        ("token_embd.bias", (WIDTH,)),
        ("blk.9.attn_q.bias", (WIDTH,)),
        ("blk.0.ffn_gate_inp.weight", (4, WIDTH)),
        ("blk.2.attn_norm.weight", (WIDTH,)),
    ],
)
def test_a_tensor_that_no_layer_uses_is_an_error(tmp_path, architecture, name, shape):
    path = write_tiny_gguf(tmp_path / "more.gguf", architecture, tensors={name: shape})
    with pytest.raises(UnsupportedModel, match=rf"more\.gguf has tensors that {architecture} .*\({name}\)"):
        load(path)


def test_the_first_few_are_named_and_the_rest_counted(tmp_path):
    path = write_tiny_gguf(
        tmp_path / "biased.gguf",
        tensors={
            f"blk.{layer}.{name}.bias": (FEED_FORWARD,)
            for layer in (0, 1)
            for name in ("ffn_norm", "attn_norm", "rope")
        },
    )
    with pytest.raises(
        UnsupportedModel,
        match=r"\(blk.0.ffn_norm.bias, blk.0.attn_norm.bias, blk.0.rope.bias, blk.1.ffn_norm.bias and 2 more\)",
    ):
        load(path)


def test_unused_tensors_are_found_before_anything_is_placed(tmp_path, device, monkeypatch):
    path = write_tiny_gguf(tmp_path / "biased.gguf", tensors={"output_norm.bias": (WIDTH,)})
    monkeypatch.setattr("vkbackend.loading.upload", lambda *_: pytest.fail("weights were uploaded"))
    with pytest.raises(UnsupportedModel, match="output_norm.bias"):
        load(path, device)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_bias_of_another_size_is_an_error(tmp_path, architecture):
    path = write_tiny_gguf(tmp_path / "odd.gguf", architecture, tensors={"blk.0.attn_k.bias": (WIDTH,)})
    with pytest.raises(GGUFError, match=r"blk.0.attn_k.bias has shape \(256,\), the metadata says \(128\)"):
        load(path)


def test_a_vision_part_may_be_left_out(tmp_path):
    tensors = {
        "v.blk.0.attn_q.weight": (WIDTH, WIDTH),
        "v.patch_embedding.bias": (WIDTH,),
        "mm.mm_input_projection.weight": (WIDTH, WIDTH),
    }
    assert load(write_tiny_gguf(tmp_path / "seeing.gguf", "gemma3", tensors=tensors)).architecture == "gemma3"


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "gone.gguf", tmp_path):
        with pytest.raises(GGUFError, match=f"{path} cannot be read"):
            load(path)


def test_frequency_factors_are_used(tmp_path):
    plain = load(write_tiny_gguf(tmp_path / "plain.gguf")).layers.blocks[0].attention.inner.rope.turns.values
    factors = (
        load(write_tiny_gguf(tmp_path / "factors.gguf", tensors={"rope_freqs.weight": (HEAD_DIM // 2,)}))
        .layers.blocks[0]
        .attention.inner.rope.turns.values
    )
    assert plain.shape == factors.shape and (plain != factors).any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_experts_of_layers_without_a_router_are_unused(tmp_path, architecture):
    path = write_tiny_gguf(
        tmp_path / "experts.gguf",
        architecture,
        fields={f"{architecture}.expert_count": 4, f"{architecture}.expert_used_count": 2},
        tensors={"blk.0.ffn_down_exps.weight": (4, 256, 512)},
    )
    with pytest.raises(UnsupportedModel, match="ffn_down_exps"):
        load(path)
    load(write_tiny_gguf(tmp_path / "dense.gguf", architecture, fields={f"{architecture}.expert_count": 0}))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "fields, scale",
    [
        ({}, 1.0),
        ({"scaling.factor": 4.0}, 0.25),
        ({"scaling.type": "linear", "scaling.factor": 8.0}, 0.125),
        ({"scaling.type": "none", "scaling.factor": 4.0}, 1.0),
        ({"scaling.factor": 0.0}, 1.0),
        ({"scale_linear": 2.0}, 0.5),
        ({"scale_linear": 2.0, "scaling.factor": 4.0}, 0.25),
    ],
)
def test_linear_rope_scaling(tmp_path, architecture, fields, scale):
    path = write_tiny_gguf(
        tmp_path / "scaled.gguf",
        architecture,
        num_layers=6,  # the sixth of gemma3 sees all
        fields={f"{architecture}.rope.{key}": value for key, value in fields.items()},
    )
    assert load(path).config.ropes[-1].scale == scale


def test_other_rope_scaling_is_refused_by_name(tmp_path):
    path = write_tiny_gguf(
        tmp_path / "su.gguf", fields={"llama.rope.scaling.type": "su", "llama.rope.scaling.factor": 4.0}
    )
    with pytest.raises(UnsupportedModel, match="'su'"):
        load(path)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equal_values_for_each_layer_are_one_number(tmp_path, architecture):
    keys = {
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "feed_forward_length": FEED_FORWARD,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    plain = Session(write_tiny_gguf(tmp_path / "plain.gguf", architecture), context_length=64).logits([1, 2, 3])
    fields = {f"{architecture}.{key}": [value] * 2 for key, value in keys.items()}
    assert (
        Session(write_tiny_gguf(tmp_path / "arrays.gguf", architecture, fields=fields), context_length=64).logits(
            [1, 2, 3]
        )
        == plain
    ).all()


@pytest.mark.parametrize(
    "value, error, said",
    [
        ([2, 4], UnsupportedModel, "head_count_kv differs from layer to layer .2 to 4., which is not implemented"),
        ([2], GGUFError, "has 1 values for 2 layers"),
        (["2", "2"], GGUFError, "holds no ints"),
        ([2.0, 2.0], GGUFError, "holds no ints"),
    ],
)
def test_other_values_for_each_layer_are_named(tmp_path, value, error, said):
    with pytest.raises(error, match=said):
        load(write_tiny_gguf(tmp_path / "arrays.gguf", fields={"llama.attention.head_count_kv": value}))
