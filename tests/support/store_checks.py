"""A store that is whole: every manifest is read, every blob has its digest."""

import hashlib

from vkbackend.server.library.describe import show


def check_whole(store) -> int:
    """Every model lists, shows, and has all that its manifest names, unchanged. -> how many there are."""
    models = store.list()
    assert len(models) == len(store.all_names())  # none is damaged
    for model in models:
        for layer in [model.manifest.config, *model.manifest.layers]:
            contents = store.blob_path(layer.digest).read_bytes()
            assert (len(contents), f"sha256:{hashlib.sha256(contents).hexdigest()}") == (layer.size, layer.digest)
        assert show(model).details.format == "gguf"
    return len(models)
