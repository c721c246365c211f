#!/usr/bin/env python3
"""Train a vocabulary of a real size from the text on this machine, for make_gguf.py.

    .venv/bin/python scripts/real_shapes/make_vocab.py VOCAB.json [--megabytes 60]

128,000 byte-level tokens and, as Llama 3's conversion has them, a merge for every split of a token into two tokens
(about 280,000). Takes a minute or two and the package `tokenizers`.
"""

import argparse
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

VOCABULARY = 128_000
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
SUFFIXES = {".py", ".txt", ".md", ".h", ".html", ".rst", ".pl", ".pm", ".pyi", ".json", ".po"}
LARGEST_FILE = 2_000_000


def texts(limit: int) -> Iterator[str]:
    """Files of this system, up to `limit` characters."""
    total = 0
    for root in (
        sysconfig.get_paths()["purelib"],
        "/usr/lib/python3",
        "/usr/share/doc",
        "/usr/share/perl",
        "/usr/include",
    ):
        for path in sorted(Path(root).rglob("*")):
            if path.suffix not in SUFFIXES or path.is_symlink() or path.stat().st_size > LARGEST_FILE:
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            yield text
            total += len(text)
            if total > limit:
                return


def all_merges(tokens: list[str]) -> list[str]:
    """Every split of every token into two tokens, in the order of their ranks."""
    rank = {token: position for position, token in enumerate(tokens)}
    merges = []
    for token in tokens:
        splits = [(token[:place], token[place:]) for place in range(1, len(token))]
        known = [(left, right) for left, right in splits if left in rank and right in rank]
        known.sort(key=lambda pair: (rank[pair[0]], rank[pair[1]]))
        merges += [f"{left} {right}" for left, right in known]
    return merges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=int, default=60, help="of text to train on")
    given = parser.parse_args()
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=24,
    )
    tokenizer.train_from_iterator(texts(given.megabytes * 1_000_000), trainer)
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    merges = all_merges(tokens)
    given.out.write_text(json.dumps({"tokens": tokens, "merges": merges}))
    print(f"{given.out}: {len(tokens)} tokens, {len(merges)} merges")


if __name__ == "__main__":
    main()
