"""Adapters from safetensors: the pairs are those of the GGUF's weights, for every form of the input."""

import json
from pathlib import Path

import numpy as np
import pytest
from hugging_face_folder import as_hugging_face, hugging_face_name, values_of, write_safetensors
from shared_data import shared
from tiny_adapter import EMBEDDING, random_pairs
from tiny_gguf import NUM_HEADS, NUM_KV_HEADS, write_tiny_gguf

from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import ModelRunner
from vkbackend.gguf.reader import GGUFFile
from vkbackend.loading import load, read
from vkbackend.server.library.convert import CannotConvert, from_adapter_folder, write_model
from vkbackend.tokenizer import Tokenizer

HEADS = {"attn_q": NUM_HEADS, "attn_k": NUM_KV_HEADS}
RANK = 4


class Output:
    """Takes the bytes of a file."""

    def __init__(self, path: Path):
        self.file = path.open("wb")
        self.write = self.file.write

    def reserve(self, num_bytes: int) -> None:
        pass


def converted(files: dict[str, Path], base: GGUFFile, path: Path) -> GGUFFile:
    output = Output(path)
    write_model(from_adapter_folder(files, base), None, output, lambda done, total: None)
    output.file.close()
    return GGUFFile.open(path)


def write_folder(folder: Path, tensors: dict[str, np.ndarray], config: dict, dtype: str = "F32") -> dict[str, Path]:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_safetensors(folder / "adapter_model.safetensors", tensors, dtype)
    return {path.name: path for path in folder.iterdir()}


def named(pairs: dict, architecture: str, is_mlx: bool) -> dict[str, np.ndarray]:
    """The tensors of pairs as PEFT or MLX stores them."""
    found = {}
    for name, (a, b) in pairs.items():
        module = hugging_face_name(name, architecture).removesuffix(".weight")
        b = as_hugging_face(name, b, architecture, HEADS)
        if name == EMBEDDING:
            a = a.T
        if is_mlx:
            found |= {f"{module}.lora_a": np.ascontiguousarray(a.T), f"{module}.lora_b": np.ascontiguousarray(b.T)}
        else:
            kinds = ("embedding_A", "embedding_B") if name == EMBEDDING else ("A.weight", "B.weight")
            for kind, values in zip(kinds, (a, b)):
                found[f"base_model.model.{module}.lora_{kind}"] = np.ascontiguousarray(values)
    return found


@pytest.mark.parametrize("form", ["PEFT", "PEFT in BF16", "MLX"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_pairs_come_back(tmp_path, architecture, form):
    base = write_tiny_gguf(tmp_path / "base.gguf", architecture, "f32")
    pairs = random_pairs(base, RANK, names=("blk.",) if form == "MLX" else ())
    config = {"lora_parameters": {"rank": RANK, "scale": 2.5}} if form == "MLX" else {"r": RANK, "lora_alpha": 10}
    tensors = named(pairs, architecture, form == "MLX")
    files = write_folder(tmp_path / "folder", tensors, config, "BF16" if "BF16" in form else "F32")
    gguf = converted(files, GGUFFile.open(base), tmp_path / "adapter.gguf")
    fields = {"general.architecture": architecture, "general.type": "adapter", "adapter.type": "lora"}
    assert {key: gguf.metadata[key] for key in fields} == fields and gguf.metadata["adapter.lora.alpha"] == 10
    assert len(gguf.tensors) == 2 * len(pairs) > 0
    tolerance = 2**-7 if "BF16" in form else 2**-10
    for name, pair in pairs.items():
        for half, wanted in zip("ab", pair):
            np.testing.assert_allclose(values_of(gguf, f"{name}.lora_{half}"), wanted, rtol=tolerance, atol=1e-6)
    load(read(base, [tmp_path / "adapter.gguf"]))


@pytest.mark.parametrize(
    "more, factor",
    [
        ({"use_rslora": True}, RANK**0.5),
        ({"alpha_pattern": {"self_attn.q_proj": 24}}, 3.0),
        ({"alpha_pattern": {"mlp.up_proj": 24}}, 1.0),
    ],
)
def test_scales_of_their_own_are_part_of_b(tmp_path, more, factor):
    base = write_tiny_gguf(tmp_path / "base.gguf", "llama", "f32")
    pairs = random_pairs(base, RANK, names=("blk.0.attn_q",))
    files = write_folder(tmp_path / "folder", named(pairs, "llama", False), {"lora_alpha": 8} | more)
    gguf = converted(files, GGUFFile.open(base), tmp_path / "adapter.gguf")
    (name, (a, b)), *_ = pairs.items()
    np.testing.assert_allclose(values_of(gguf, f"{name}.lora_a"), a, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(values_of(gguf, f"{name}.lora_b"), b * np.float32(factor), rtol=1e-3, atol=1e-6)


PART = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "tensors, config, words",
    [
        ({f"{PART}.lora_A.weight": (4, 256)}, None, "open adapter_config.json: no such file or directory"),
        ({f"{PART}.lora_A.weight": (4, 256)}, {"use_dora": True}, "DoRA; supported is LORA"),
        ({f"{PART}.lora_A.weight": (4, 256)}, {"peft_type": "IA3"}, "IA3; supported is LORA"),
        ({f"{PART}.lora_A.weight": (4, 256)}, {"lora_alpha": "x"}, "adapter_config.json: lora_alpha is x, not"),
        ({f"{PART}.lora_A.weight": (4, 256)}, {"alpha_pattern": {"(": 1}}, "invalid pattern '('"),
        ({f"{PART}.lora_magnitude_vector": (256,)}, {}, "does not belong to a LoRA adapter"),
        ({f"{PART}.weight": (256, 256)}, {}, "does not belong to a LoRA adapter"),
        ({f"{PART.replace('q_proj', 'w_proj')}.lora_A.weight": (4, 256)}, {}, "w_proj.weight does not belong"),
    ],
)
def test_what_is_no_adapter_is_refused(tmp_path, tensors, config, words):
    base = GGUFFile.open(write_tiny_gguf(tmp_path / "base.gguf", "llama", "f32"))
    arrays = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    files = write_folder(tmp_path / "folder", arrays, config or {})
    if config is None:
        del files["adapter_config.json"]
    with pytest.raises(CannotConvert, match=words.replace("(", r"\(")):
        from_adapter_folder(files, base)


def test_the_original_orders_a_instead_of_b(tmp_path):
    """The rows of q and k are heads, and so are those of B. The original orders A, as if it were transposed: with that
    order, the adapter gives the recorded answers.
    """
    folder = shared("oracles") / "misc" / "lora" / "llama"
    files = {path.name: path for path in (folder / "st_qk").iterdir()}
    base = GGUFFile.open(folder / "model.gguf")
    path = tmp_path / "adapter.gguf"
    gguf = converted(files, base, path)
    contents = bytearray(path.read_bytes())
    for name, info in gguf.tensors.items():
        stored = np.frombuffer(bytes(contents[info.offset : info.offset + info.num_bytes]), np.float16)
        heads = 4 if "attn_q" in name else 2
        if name.endswith("lora_a"):  # with the query heads for keys, too
            wrong = stored.reshape(4, 2, info.shape[1] // 8, RANK).transpose(0, 2, 1, 3)
        else:
            wrong = stored.reshape(heads, info.shape[0] // heads // 2, 2, RANK).transpose(0, 2, 1, 3)
        contents[info.offset : info.offset + info.num_bytes] = np.ascontiguousarray(wrong).tobytes()
    (tmp_path / "wrong.gguf").write_bytes(contents)
    case = next(c for c in json.loads((folder / "cases.json").read_text())["cases"] if c["id"] == "lora_st_qk")
    steps = [step for step in case["steps"] if step["request"]["path"] == "/api/generate"]
    assert max(largest_difference(folder / "model.gguf", tmp_path / "wrong.gguf", step) for step in steps) < 0.03
    assert min(largest_difference(folder / "model.gguf", path, step) for step in steps) > 0.1


def largest_difference(model: Path, adapter: Path, step: dict) -> float:
    """Of the first token's log-probabilities, to those recorded."""
    loaded = load(read(model, [adapter]))
    runner, tokenizer = ModelRunner(loaded, context_length=256, max_sequences=1), Tokenizer.from_gguf(loaded.gguf)
    work = SequenceWork(runner.open_sequence(), tokenizer.encode(step["request"]["json"]["prompt"]), 1)
    (row,) = runner.step([work])
    found = row.full() - row.log_sum_exp
    by_text = {tokenizer.decode([token]).decode("utf-8", "replace"): found[token] for token in range(len(found))}
    recorded = step["expect"]["body"]["value"]["logprobs"][0]["top_logprobs"]
    return max(abs(by_text[entry["token"]] - entry["logprob"]) for entry in recorded)
