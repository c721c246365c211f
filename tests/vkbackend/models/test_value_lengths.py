"""Heads whose values have another size than their keys."""

import numpy as np
import pytest
from gguf import GGUFWriter

from vkbackend.engine.runner import ModelRunner, SequenceWork
from vkbackend.loading import load

WIDTH, HEADS, KV_HEADS, KEYS = 32, 4, 2, 12
WIDER = 20  # the size of values in the other file, with zeros


def write(path, values: int, padded: int) -> None:
    """A layer with heads of `values` values, in heads of `padded` that end with zeros."""
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(KEYS)
    writer.add_value_length(padded)
    writer.add_layer_norm_rms_eps(1e-5)
    rng = np.random.default_rng(values)

    v, output = (rng.standard_normal((heads, values, WIDTH), np.float32) / 4 for heads in (KV_HEADS, HEADS))
    zeros = ((0, 0), (0, padded - values), (0, 0))
    v, output = (np.pad(each, zeros).reshape(-1, WIDTH) for each in (v, output))
    tensors = {"blk.0.attn_v": v, "blk.0.attn_output": output.T}
    shapes = {
        "token_embd": (300, WIDTH),
        "output_norm": (WIDTH,),
        "blk.0.attn_norm": (WIDTH,),
        "blk.0.attn_q": (HEADS * KEYS, WIDTH),
        "blk.0.attn_k": (KV_HEADS * KEYS, WIDTH),
        "blk.0.ffn_norm": (WIDTH,),
        "blk.0.ffn_gate": (WIDTH, WIDTH),
        "blk.0.ffn_up": (WIDTH, WIDTH),
        "blk.0.ffn_down": (WIDTH, WIDTH),
    }
    tensors |= {name: rng.standard_normal(shape, np.float32) / 4 for name, shape in shapes.items()}
    for name, array in tensors.items():
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("values", (6, KEYS, 18))
def test_zeros_after_the_values_of_a_head_change_nothing(tmp_path, values):
    found = []
    for padded in (values, WIDER):
        path = tmp_path / f"{padded}.gguf"
        write(path, values, padded)
        runner = ModelRunner(load(path), context_length=64, kv_type="f32")
        (row,) = runner.step([SequenceWork(runner.open_sequence(), list(range(40)), 1)])
        found.append(row.full().copy())
    assert np.abs(found[0]).max() > 0.1
    assert np.abs(found[0] - found[1]).max() < 1e-5
