"""Writes the tiny GGUF files behind the recorded management answers, and makes the models that stood in that store."""

import numpy as np
from gguf import GGUFWriter

from vkbackend.server.library import create
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.store import Store
from vkbackend.server.wire import native

TENSORS = ("blk.0.attn_norm.weight", "output.weight", "token_embd.weight")


def write_gguf(path, architecture="llama", extra=None, chat_template=None):
    """One block, three tensors of one element, context length 10. `extra`: keys below the architecture, with int
    values.
    """
    writer = GGUFWriter(path, architecture)
    for key, value in {
        "attention.head_count": 8,
        "attention.head_count_kv": 8,
        "block_count": 1,
        "context_length": 10,
        "embedding_length": 64,
        **(extra or {}),
    }.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_uint32("general.file_type", 0)
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_array("tokenizer.ggml.scores", [0.0, 1.0])
    writer.add_array("tokenizer.ggml.token_type", [1, 1])
    if architecture == "bert":
        for name, value in (("bos", 100), ("eos", 101)):
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", value)
            writer.add_bool(f"tokenizer.ggml.add_{name}_token", True)
    if chat_template:
        writer.add_string("tokenizer.chat_template", chat_template)
    for name in TENSORS:
        writer.add_tensor(name, np.zeros(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


KINDS = {"embed": ("bert", {"pooling_type": 1}), "vision": ("llama", {"vision.block_count": 1}), "qwen3": ("qwen3", {})}


def make_model(store: Store, name: str, folder, settings: dict | None = None):
    """Create `name` from a file of its kind with the template, system... of `settings`."""
    path = write_gguf(folder / f"{name}.gguf", *KINDS.get(name, ("llama", {})))
    digest, _ = store.add_blob(path.read_bytes())
    request = native.CreateRequest(
        model=name,
        files={"m.gguf": digest},
        template=(settings or {}).get("template", ""),
        system=(settings or {}).get("system", ""),
        parameters=(settings or {}).get("parameters"),
        messages=[native.Message(**message) for message in (settings or {}).get("messages", [])],
    )
    create.create(store, request, parse_name(name), lambda status: None)


def blobs(store):
    return {path.name for path in store.blobs.iterdir()}


def build(store, **request):
    """Create a model; the statuses that /api/create would report."""
    statuses, ask = [], native.CreateRequest(**request)
    create.create(store, ask, create.checked_name(ask), statuses.append)
    return statuses
