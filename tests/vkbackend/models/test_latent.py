"""Attention on latent rows beside a float64 reference that gives each head keys and values of its own."""

import numpy as np
import pytest
from gguf import GGUFWriter

from vkbackend.engine.runner import ModelRunner, SequenceWork
from vkbackend.errors import GGUFError
from vkbackend.loading import load, read

WIDTH, HEADS, RANK, Q_RANK, ROTATED, STILL, VALUES = 48, 3, 10, 16, 6, 7, 5
EPS, BASE, EXTENSION, TRAINED, LOG_MULTIPLIER = 1e-6, 1000.0, 8.0, 64, 0.07
SIZES = {
    "block_count": 1,
    "context_length": 256,
    "embedding_length": WIDTH,
    "feed_forward_length": WIDTH,
    "attention.head_count": HEADS,
    "attention.kv_lora_rank": RANK,
    "attention.q_lora_rank": Q_RANK,
    "rope.dimension_count": ROTATED,
    "rope.scaling.original_context_length": TRAINED,
}
FLOATS = {
    "attention.layer_norm_rms_epsilon": EPS,
    "rope.freq_base": BASE,
    "rope.scaling.factor": EXTENSION,
    "rope.scaling.yarn_log_multiplier": LOG_MULTIPLIER,
}
LENGTHS = {
    "attn_kv_b": {"key_length": STILL + ROTATED, "value_length": VALUES},
    "attn_k_b": {
        "head_count_kv": 1,
        "key_length": RANK + ROTATED,
        "value_length": RANK,
        "key_length_mla": STILL + ROTATED,
        "value_length_mla": VALUES,
    },
}


def tensors() -> dict[str, np.ndarray]:
    shapes = {
        "token_embd": (300, WIDTH),
        "output": (300, WIDTH),
        "output_norm": (WIDTH,),
        "attn_norm": (WIDTH,),
        "attn_q_a": (Q_RANK, WIDTH),
        "attn_q_a_norm": (Q_RANK,),
        "attn_q_b": (HEADS * (STILL + ROTATED), Q_RANK),
        "attn_kv_a_mqa": (RANK + ROTATED, WIDTH),
        "attn_kv_a_norm": (RANK,),
        "attn_kv_b": (HEADS * (STILL + VALUES), RANK),
        "attn_output": (WIDTH, HEADS * VALUES),
        "ffn_norm": (WIDTH,),
        "ffn_gate": (WIDTH, WIDTH),
        "ffn_up": (WIDTH, WIDTH),
        "ffn_down": (WIDTH, WIDTH),
    }
    rng = np.random.default_rng(14)
    return {name: rng.standard_normal(shape, np.float32) / 2 for name, shape in shapes.items()}


def write(path, form: str, **changed: int) -> None:
    """form: "attn_kv_b", or "attn_k_b" for files that hold the up-projections of each head. changed: sizes of
    attention.
    """
    writer = GGUFWriter(path, "deepseek2")
    lengths = {f"attention.{key}": value for key, value in (LENGTHS[form] | changed).items()}
    for key, value in (SIZES | lengths).items():
        writer.add_uint32(f"deepseek2.{key}", value)
    for key, value in FLOATS.items():
        writer.add_float32(f"deepseek2.{key}", value)
    writer.add_string("deepseek2.rope.scaling.type", "yarn")
    found = tensors()
    if form == "attn_k_b":
        up = found.pop("attn_kv_b").reshape(HEADS, STILL + VALUES, RANK)
        found |= {"attn_k_b": up[:, :STILL].transpose(0, 2, 1), "attn_v_b": up[:, STILL:]}
    for name, values in found.items():
        prefix = "" if name.startswith(("token_embd", "output")) else "blk.0."
        writer.add_tensor(f"{prefix}{name}.weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def turned(x: np.ndarray) -> np.ndarray:
    """Neighbouring elements of x (T, ..., ROTATED), turned by YaRN's angles."""
    pairs = np.arange(ROTATED // 2)
    low, high = (ROTATED * np.log(TRAINED / (turns * 2 * np.pi)) / (2 * np.log(BASE)) for turns in (32, 1))
    low, high = max(np.floor(low), 0), min(np.ceil(high), ROTATED - 1)
    kept = 1 - np.clip((pairs - low) / (high - low), 0, 1)
    frequencies = BASE ** (-2 * pairs / ROTATED) * (kept + (1 - kept) / EXTENSION)
    angles = np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1)) * frequencies
    z = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    return np.stack([z.real, z.imag], -1).reshape(x.shape)


def reference(ids: list[int]) -> np.ndarray:
    """Logits of the last token."""
    w = {name: values.astype(np.float64) for name, values in tensors().items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w[name]

    x = w["token_embd"][ids]
    h = norm(x, "attn_norm")
    q = (norm(h @ w["attn_q_a"].T, "attn_q_a_norm") @ w["attn_q_b"].T).reshape(len(ids), HEADS, -1)
    row = h @ w["attn_kv_a_mqa"].T
    up = (norm(row[:, :RANK], "attn_kv_a_norm") @ w["attn_kv_b"].T).reshape(len(ids), HEADS, -1)
    scores = np.einsum("qhd,khd->hqk", q[..., :STILL], up[..., :STILL])
    scores += np.einsum("qhd,kd->hqk", turned(q[..., STILL:]), turned(row[:, RANK:]))
    scores *= (1 + LOG_MULTIPLIER * np.log(EXTENSION)) ** 2 / np.sqrt(STILL + ROTATED)
    shares = np.exp(scores) * np.tri(len(ids))
    shares /= shares.sum(-1, keepdims=True)
    x = x + np.einsum("hqk,khd->qhd", shares, up[..., STILL:]).reshape(len(ids), -1) @ w["attn_output"].T
    h = norm(x, "ffn_norm")
    gate = h @ w["ffn_gate"].T
    x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
    return norm(x, "output_norm")[-1] @ w["output"].T


@pytest.mark.parametrize("form", LENGTHS)
def test_latent_rows_give_the_attention_of_separate_heads(tmp_path, form):
    path = tmp_path / "latent.gguf"
    write(path, form)
    model = load(path)
    ids = np.random.default_rng(0).integers(0, 300, 40).tolist()
    runner = ModelRunner(model, context_length=64, kv_type="f32")
    assert runner.storage.num_bytes == 64 * 2 * 4 * 64, "a row of 6 + 10 elements with zeros, for all heads"
    sequence = runner.open_sequence()
    for part in (ids[:30], ids[30:39], ids[39:]):
        (found,) = runner.step([SequenceWork(sequence, part, 1)])
    assert np.abs(found.full() - reference(ids)).max() < 1e-4


@pytest.mark.parametrize("key", ("kv_lora_rank", "q_lora_rank", "key_length", "value_length"))
def test_sizes_that_no_tensor_has_are_errors_before_they_are_used(tmp_path, key):
    write(tmp_path / "latent.gguf", "attn_kv_b", **{key: 1 << 23})
    with pytest.raises(GGUFError, match="has shape"):
        read(tmp_path / "latent.gguf")
