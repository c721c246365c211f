"""Conversions, texts to compare tokenizers with, and fields of the files that a conversion reads."""

import struct

from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.library.convert import from_folder, gguf_out

TEXTS = [
    "the and hell on",
    "Hello, world! 12345 \n\n  tabs\tand  spaces",
    "naïve café 東京 🙂",
    "<|im_start|>user\nthe<|im_end|>",
    " <start_of_turn>the thing",
]


def converted(files: dict, target) -> GGUFFile:
    with open(target, "wb") as file:
        gguf_out.write(from_folder(files), {}, file.write, lambda done: None)
    return GGUFFile.open(target)


def field(number: int, value) -> bytes:
    """A field of a protocol buffer."""

    def varint(value):
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value
