"""A tokenizer with pieces of JSON, and whether a schema accepts a text."""

import json

from fake_runner import FakeTokenizer

BYTES = [bytes([value]) for value in range(256)]
WORDS = [b'{"', b'":', b'", "', b'"}', b"true", b"null", b"12", b"ab", b" ", b"\n  ", b"}]"]


class JsonTokenizer(FakeTokenizer):
    """Every byte and some pieces of JSON."""

    def __init__(self):
        super().__init__(BYTES + WORDS, vocab_size=2 + len(BYTES + WORDS))

    def encode(self, text, add_special=True, parse_special=True):
        return [self.id(bytes([byte])) for byte in text.encode()]


def reads(grammars, tokenizer, schema, text) -> bool:
    """Whether a whole text is one of those that a format allows."""
    constraint = grammars.constraint(json.dumps(schema))
    for token in tokenizer.encode(text):
        if not constraint.allowed()[token]:
            return False
        constraint.accept(token)
    return bool(constraint.allowed()[1])
