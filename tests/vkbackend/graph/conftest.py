"""Fixtures of the tests of executors."""

import pytest
from tiny_gguf import write_tiny_gguf

from vkbackend import settings
from vkbackend.engine.runner import ModelRunner
from vkbackend.loading import load


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """tiny(architecture, format, device, **options of ModelRunner) makes a runner with a new cache; files and weights
    are shared.
    """
    folder, models = tmp_path_factory.mktemp("models"), {}

    def make(architecture="llama", format="q8_0", device=None, num_layers=2, **options):
        key = architecture, format, num_layers, id(device), settings.get("VKBACKEND_CPU")
        if key not in models:
            path = folder / f"{architecture}-{format}-{num_layers}.gguf"
            if not path.exists():
                write_tiny_gguf(path, architecture, format, num_layers=num_layers)
            models[key] = load(path, device)
        sizes = {"context_length": 256, "max_sequences": 4, "prefill_chunk": 16, "num_threads": 1}
        return ModelRunner(models[key], **(sizes | options))

    return make
