"""Writes vocabularies into GGUF files."""

from collections.abc import Mapping
from pathlib import Path

from gguf import GGUFValueType, GGUFWriter

from vkbackend.gguf.reader import GGUFFile
from vkbackend.tokenizer import Tokenizer
from vkbackend.tokenizer.vocabulary import TokenType

ADD = {bool: GGUFWriter.add_bool, int: GGUFWriter.add_uint32, str: GGUFWriter.add_string, list: GGUFWriter.add_array}


def add_keys(writer: GGUFWriter, keys: Mapping[str, object]) -> None:
    """Adds `tokenizer.ggml.<key>` for each key. Bytes become an array of 8-bit numbers."""
    for key, value in keys.items():
        name = f"tokenizer.ggml.{key}"
        if isinstance(value, bytes):
            writer.add_key_value(name, list(value), GGUFValueType.ARRAY, GGUFValueType.UINT8)
        else:
            ADD[type(value)](writer, name, value)


def tokenizer_of(
    tmp_path: Path, model: str, tokens: dict[str, TokenType], scores=None, merges=None, **keys
) -> Tokenizer:
    """tokens: type by text, in the order of ids. keys: further tokenizer.ggml.<key>; `name` is general.name."""
    writer = GGUFWriter(tmp_path / "vocabulary.gguf", "llama")
    if name := keys.pop("name", None):
        writer.add_name(name)
    writer.add_tokenizer_model(model)
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(tokens.values()))
    keys |= {name: value for name, value in (("scores", scores), ("merges", merges)) if value is not None}
    add_keys(writer, keys)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return Tokenizer.from_gguf(GGUFFile.open(tmp_path / "vocabulary.gguf"))
