"""The sizes of decoders, read from the metadata of tiny files."""

import pytest
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

from vkbackend import loading
from vkbackend.errors import GGUFError, UnsupportedModel
from vkbackend.models.decoder_config import DecoderConfig


def config(path, architecture, **fields):
    keys = {f"{architecture}.{key.replace('__', '.')}": value for key, value in fields.items()}
    read = loading.read(write_tiny_gguf(path / "tiny.gguf", architecture, fields=keys)).config
    assert isinstance(read, DecoderConfig)
    return read


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_decoder_checks_the_same_sizes(tmp_path, architecture):
    with pytest.raises(GGUFError, match="heads of"):
        config(tmp_path, architecture, attention__head_count_kv=3)
    with pytest.raises(GGUFError, match="shape"):
        config(tmp_path, architecture, feed_forward_length=32)
    with pytest.raises(UnsupportedModel, match="mixture of 4 experts"):
        config(tmp_path, architecture, expert_count=4)


def test_llama_rotates_the_leading_elements_of_a_head(tmp_path):
    assert config(tmp_path, "llama", rope__dimension_count=8).ropes[0].num_rotated == 8


def test_gemma3_ignores_the_number_of_rotated_elements(tmp_path):
    """All elements of its heads rotate."""
    read = config(tmp_path, "gemma3", rope__dimension_count=3)
    assert read.ropes[0].num_rotated == read.head_dim
