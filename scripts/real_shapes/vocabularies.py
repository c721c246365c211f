"""Tokenizer fields of a GGUF file, of real sizes, out of the vocabulary that make_vocab.py trained."""

import numpy as np
from gguf import GGUFWriter, TokenType

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
SPACE = "\u2581"
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


def add_bpe(writer: GGUFWriter, vocabulary: dict, size: int) -> None:
    """Llama 3's: byte-level tokens, all merges, 256 control tokens at the end."""
    tokens = list(vocabulary["tokens"])
    plain = size - NUM_LLAMA3_CONTROL
    tokens += [f"\u0120filler{number}" for number in range(plain - len(tokens))]
    control = list(LLAMA3_CONTROL)
    first = 3  # three reserved tokens stand among LLAMA3_CONTROL
    missing = NUM_LLAMA3_CONTROL - len(control)
    control += [f"<|reserved_special_token_{number}|>" for number in range(first, first + missing)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens + control)
    writer.add_token_types([TokenType.NORMAL] * plain + [TokenType.CONTROL] * NUM_LLAMA3_CONTROL)
    writer.add_token_merges(vocabulary["merges"])
    writer.add_bos_token_id(plain)
    writer.add_eos_token_id(plain + LLAMA3_CONTROL.index("<|eot_id|>"))
    writer.add_chat_template(LLAMA3_TEMPLATE)


def add_sentencepiece(writer: GGUFWriter, vocabulary: dict, size: int, is_gemma: bool) -> None:
    """Gemma 3's or Llama 2's: control tokens, bytes, then pieces by falling score."""
    if is_gemma:
        control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
        control += [f"<unused{number}>" for number in range(99)]
    else:
        control = ["<unk>", "<s>", "</s>"]
    pieces = _pieces(vocabulary["tokens"], size - len(control) - 256, is_gemma)
    tokens = control + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
    kinds = [TokenType.CONTROL] * len(control) + [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(pieces)
    kinds[control.index("<unk>")] = TokenType.UNKNOWN
    assert len(tokens) == len(set(tokens)) == size
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
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


def _pieces(tokens: list[str], count: int, has_runs: bool) -> list[str]:
    """`count` different pieces: runs of newlines and spaces, the trained tokens that are text, then pairs of words."""
    found: dict[str, None] = {SPACE: None}
    if has_runs:
        found |= dict.fromkeys("\n" * length for length in range(1, 32))
        found |= dict.fromkeys(SPACE * length for length in range(2, 32))
    byte_of = _byte_alphabet()
    for token in tokens:
        try:
            text = bytes(byte_of[character] for character in token).decode()
        except (KeyError, UnicodeDecodeError):
            continue
        if "\n" not in text and "\r" not in text and text.strip(" "):
            found[text.replace(" ", SPACE)] = None
    words = [piece for piece in found if piece.strip(SPACE).isalpha() and len(piece) > 3]
    rng = np.random.default_rng(7)
    while len(found) < count:
        left, right = rng.integers(0, len(words), 2)
        found[words[left] + words[right].strip(SPACE)] = None
    return list(found)[:count]


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return {chr(byte if byte in printable else next(others)): byte for byte in range(256)}
