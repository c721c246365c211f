"""Writes tables of replacements as SentencePiece does (`tokenizer.ggml.precompiled_charsmap`)."""

import struct
from collections.abc import Mapping

BLOCK = 256  # units that the children of one unit take here


def charsmap_table(replacements: Mapping[str, str]) -> bytes:
    """The table of some replacements."""
    units, texts = [0] * BLOCK, b""
    places = {b"": 0}  # index of the unit of each beginning of a key
    keys = {key.encode(): text for key, text in replacements.items()}
    for prefix in sorted({key[:end] for key in keys for end in range(len(key) + 1)}, key=len):
        at, block = places[prefix], len(units)
        units += [0] * BLOCK
        units[at] |= (at ^ block) << 10
        for byte in {key[len(prefix)] for key in keys if key.startswith(prefix) and len(key) > len(prefix)}:
            units[block + byte] = byte
            places[prefix + bytes([byte])] = block + byte
        if prefix in keys:
            units[at] |= 256
            units[block] = 1 << 31 | len(texts)
            texts += keys[prefix].encode() + b"\0"
    return struct.pack(f"<{len(units) + 1}I", 4 * len(units), *units) + texts
