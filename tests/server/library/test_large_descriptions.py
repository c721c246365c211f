"""What a model's description reads of its file."""

import pytest

from vkbackend.gguf.metadata import Strings
from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.library.describe import model_info


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_a_models_description_decodes_no_vocabulary(large_vocabularies, monkeypatch, name):
    def decoded(self: Strings):
        raise AssertionError("the strings of a vocabulary were decoded")

    monkeypatch.setattr(Strings, "pieces", decoded)
    info = model_info(GGUFFile.open(large_vocabularies[name]), verbose=False)
    assert "tokenizer.ggml.tokens" in info and info["tokenizer.ggml.tokens"] is None
    with pytest.raises(AssertionError):
        model_info(GGUFFile.open(large_vocabularies[name]), verbose=True)
