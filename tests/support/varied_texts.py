"""Texts of many kinds for comparing tokenizers, always the same for one seed."""

import json
import random
import unicodedata

from places import DATA

PHRASES = json.loads((DATA / "phrases.json").read_text(encoding="utf-8"))
SPACES = [
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\v",
    "\f",
    "\x85",
    "\u00a0",
    "\u1680",
    "\u2003",
    "\u2028",
    "\u2029",
    "\u202f",
    "\u3000",
    "\u200b",
    "\ufeff",
    "\x1c",
    "\x1f",
]
# Assigned long ago: the tables of the two sides may be of different Unicode versions.
ASSIGNED = [code for code in range(1, 0x30000) if unicodedata.ucd_3_2_0.category(chr(code)) not in ("Cn", "Cs")]


def varied_texts(count: int, seed: int, special: list[str]) -> list[str]:
    """`count` texts without NUL and lone surrogates; `special`: texts of special tokens to strew in."""
    draw = random.Random(seed)

    def numbers():
        return "".join(draw.choice("0123456789") for _ in range(draw.randint(1, 12)))

    def spaces():
        return "".join(draw.choice(SPACES) * draw.randint(1, 5) for _ in range(draw.randint(1, 4)))

    def any_characters():
        return "".join(chr(draw.choice(ASSIGNED)) for _ in range(draw.randint(1, 30)))

    def ascii_characters():
        return "".join(chr(draw.randint(1, 127)) for _ in range(draw.randint(1, 40)))

    def phrase():
        whole = draw.choice(PHRASES)
        return whole if draw.random() < 0.6 else whole[draw.randint(0, len(whole)) :]

    def changed_case():
        return draw.choice((str.upper, str.title, str.swapcase))(phrase())

    def written_special():
        text = draw.choice(special)
        return text if draw.random() < 0.7 else text[: draw.randint(1, len(text))]

    def bytes_in_a_row():
        repeated = draw.choice(["a", "=", "-", "é", "あ", "🦙", "ab", "xyz", "!", "'", "\n", " "])
        return repeated * draw.randint(1, 200)

    parts = [
        numbers,
        spaces,
        any_characters,
        ascii_characters,
        phrase,
        phrase,
        phrase,
        changed_case,
        written_special,
        bytes_in_a_row,
    ]
    texts = [""] + PHRASES + SPACES
    while len(texts) < count:
        glue = draw.choice(["", "", " ", " ", "\n", "  "])
        texts.append(glue.join(draw.choice(parts)() for _ in range(draw.randint(1, 8))))
    return texts[:count]
