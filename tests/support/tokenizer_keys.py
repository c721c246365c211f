"""Writes keys of a tokenizer into a GGUF file."""

from collections.abc import Mapping

from gguf import GGUFValueType, GGUFWriter

ADD = {bool: GGUFWriter.add_bool, int: GGUFWriter.add_uint32, str: GGUFWriter.add_string, list: GGUFWriter.add_array}


def add_keys(writer: GGUFWriter, keys: Mapping[str, object]) -> None:
    """Adds `tokenizer.ggml.<key>` for each key. Bytes become an array of 8-bit numbers."""
    for key, value in keys.items():
        name = f"tokenizer.ggml.{key}"
        if isinstance(value, bytes):
            writer.add_key_value(name, list(value), GGUFValueType.ARRAY, GGUFValueType.UINT8)
        else:
            ADD[type(value)](writer, name, value)
