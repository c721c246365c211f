"""Vocabularies of real size from a seed, for real_shapes.py: no training, no texts.

Words are made of syllables with English spelling. A token is a syllable, a piece of one, or syllables in a row, with
and without a space before it; some common words are tokens, too. So every longer token is two shorter ones, usually in
more than one way, as in a trained vocabulary.
"""

import itertools
import string
from collections.abc import Iterator

import numpy as np
from gguf import GGUFWriter, TokenType

from vkbackend.bench.compare import WORDS

ONSETS = "b c d f g h j k l m n p qu r s t v w y z bl br ch cl cr dr fl fr gr pl pr sc sh sl sp st str th tr wh".split()
NUCLEI = "a e i o u ai ea ee ou".split()
CODAS = "b c ck d g l ll m n nd ng ns nt p r rd rn rs rt s st t th ts".split()
OTHER_LETTERS = (
    range(0xC0, 0x180),
    range(0x391, 0x3CA),
    range(0x410, 0x450),
    range(0x3041, 0x3097),
    range(0x4E00, 0x5800),
)
LONGEST_RUN = 32  # of spaces or newlines in one token
SPACE = "\u2581"  # SentencePiece's
LLAMA3_CONTROL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
NUM_LLAMA3_CONTROL = 256
LLAMA3_TEMPLATE = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{%- for message in messages -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<start_of_turn>' + role + '\n' }}{{ message['content'] | trim }}{{ '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{'<start_of_turn>model\n'}}{%- endif -%}"
)


def add_bpe(writer: GGUFWriter, size: int) -> None:
    """Add the fields of a byte-level BPE tokenizer as in Llama 3: all merges, 256 control tokens at the end."""
    plain = size - NUM_LLAMA3_CONTROL
    tokens = byte_level_tokens(plain)
    reserved = itertools.count(3)  # LLAMA3_CONTROL has three
    control = list(LLAMA3_CONTROL)
    control += [f"<|reserved_special_token_{next(reserved)}|>" for _ in range(NUM_LLAMA3_CONTROL - len(control))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens + control)
    writer.add_token_types([TokenType.NORMAL] * plain + [TokenType.CONTROL] * NUM_LLAMA3_CONTROL)
    writer.add_token_merges(all_merges(tokens))
    writer.add_bos_token_id(plain)
    writer.add_eos_token_id(plain + LLAMA3_CONTROL.index("<|eot_id|>"))
    writer.add_chat_template(LLAMA3_TEMPLATE)


def add_sentencepiece(writer: GGUFWriter, size: int, is_gemma: bool, model: str = "llama") -> None:
    """Add the fields of a SentencePiece tokenizer as in Gemma 3 or Llama 2: control tokens, bytes, pieces by falling
    score. model: "gemma4" for BPE on these pieces, "t5" for Unigram.
    """
    if is_gemma:
        control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
        control += [f"<unused{number}>" for number in range(99)]
    else:
        control = ["<unk>", "<s>", "</s>"]
    pieces = list(itertools.islice(sentence_pieces(has_runs=is_gemma), size - len(control) - 256))
    tokens = control + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
    kinds = [TokenType.CONTROL] * len(control) + [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(pieces)
    kinds[control.index("<unk>")] = TokenType.UNKNOWN
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    if model == "gemma4":
        writer.add_token_merges(all_merges(pieces))
    writer.add_token_scores([0.0] * (len(control) + 256) + [-float(rank) for rank in range(len(pieces))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(tokens.index("<bos>" if is_gemma else "<s>"))
    writer.add_eos_token_id(tokens.index("<eos>" if is_gemma else "</s>"))
    writer.add_unk_token_id(tokens.index("<unk>"))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    if is_gemma:
        writer.add_pad_token_id(0)
        writer.add_add_space_prefix(False)
        writer.add_chat_template(GEMMA_TEMPLATE)


def byte_level_tokens(count: int) -> list[str]:
    """`count` tokens in GPT-2's characters for bytes, the 256 bytes first."""
    character = _byte_characters()
    found = dict.fromkeys(character)
    texts = itertools.chain(_runs(), _numbers(), _marks(), _texts())
    while len(found) < count:
        encoded = [character[byte] for byte in next(texts).encode()]
        if len(encoded) < 4:  # also the beginnings of a character of several bytes
            found |= dict.fromkeys(map("".join, itertools.accumulate(encoded)))
        found["".join(encoded)] = None
    return list(found)[:count]


def all_merges(tokens: list[str]) -> list[str]:
    """Every split of every token into two tokens, in the order of the tokens' ranks, as Llama 3's conversion has
    them.
    """
    rank = {token: position for position, token in enumerate(tokens)}
    merges = []
    for token in tokens:
        splits = [(token[:place], token[place:]) for place in range(1, len(token))]
        known = [(rank[left], rank[right], left, right) for left, right in splits if left in rank and right in rank]
        merges += [f"{left} {right}" for _, _, left, right in sorted(known)]
    return merges


def sentence_pieces(has_runs: bool) -> Iterator[str]:
    """Different pieces without end, the most frequent first. has_runs: of newlines and spaces."""
    runs = [run.replace(" ", SPACE) for run in _runs()] if has_runs else []
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    texts = itertools.chain(_marks(), _texts())
    found: set[str] = set()
    for piece in itertools.chain(runs, [SPACE], letters, (text.replace(" ", SPACE) for text in texts)):
        if piece not in found:
            found.add(piece)
            yield piece


def _byte_characters() -> list[str]:
    """GPT-2's character for each byte."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = itertools.count(256)
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _runs() -> Iterator[str]:
    for length in range(1, LONGEST_RUN):
        yield " " * length
        yield "\n" * length


def _numbers() -> Iterator[str]:
    """All numbers of two and three digits."""
    for length in (2, 3):
        yield from map("".join, itertools.product("0123456789", repeat=length))


def _marks() -> Iterator[str]:
    """Pairs of punctuation marks, and a mark after a space."""
    yield from (" " + mark for mark in string.punctuation)
    yield from map("".join, itertools.product(string.punctuation, repeat=2))


def _texts() -> Iterator[str]:
    """Texts without end; each longer one consists of two earlier ones. Repeats some."""
    rng = np.random.default_rng(7)
    pieces = [first + second for first, second in itertools.product("aeiou", "bcdfghklmnprstvwxyz")]
    yield from (" " + letter for letter in string.ascii_letters)
    yield from _with_spaces([*ONSETS, *(onset.capitalize() for onset in ONSETS)])
    yield from NUCLEI + CODAS
    for word in WORDS:  # of which comparisons make their prompts
        yield from _with_spaces(itertools.accumulate(word))
    yield from _with_spaces(pieces)
    opened = [onset + nucleus for onset in ONSETS for nucleus in NUCLEI]
    yield from _with_spaces(opened)
    yield from _with_spaces(syllable.capitalize() for syllable in opened)
    for letters in OTHER_LETTERS:
        yield from _with_spaces(map(chr, letters))
    closed = [start + coda for start in opened for coda in CODAS]
    rng.shuffle(closed)
    yield from _with_spaces(closed)
    syllables = np.array(opened + closed)
    while True:
        for first, second, third in syllables[rng.integers(0, len(syllables), (4096, 3))].tolist():
            yield from _with_spaces([first + second, second + third, first + second + third])


def _with_spaces(texts) -> Iterator[str]:
    for text in texts:
        yield text
        yield " " + text
