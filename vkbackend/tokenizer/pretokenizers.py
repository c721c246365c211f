r"""How byte-level BPE vocabularies split a text into words: one row for each set of names in `tokenizer.ggml.pre`.

In: a text. Out: its words; joined, they are the text. The patterns of a row are applied in turn, each to all pieces so
far: its matches and the gaps between them are the new pieces. The patterns are those of the models' own tokenizers,
with the changes that llama.cpp makes (src/llama-vocab.cpp), because it is the reference for GGUF files: in tekken and
gpt-4o, for example, it only knows ASCII capitals. They are written for the `regex` module, which supports \p{..}.

Rows with `plain` are for vocabularies like SentencePiece's that have merges: their tokens are plain text, not the
printable characters of `bpe.py`. Most of these rows cut only at newlines.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import regex

log = logging.getLogger(__name__)

# Alternatives of patterns. Together they match every character, so the patterns made of them leave no gaps.
ENGLISH = r"'s|'t|'re|'ve|'m|'ll|'d"
ENGLISH_ANY_CASE = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
WORD_AND_MARK = r"[^\r\n\p{L}\p{N}]?\p{L}+"
PUNCTUATION = r" ?[^\s\p{L}\p{N}]+"
SPACES = r"\s+(?!\S)|\s+"
LINE_ENDS = r"\s*[\r\n]+"

GPT2 = rf"{ENGLISH}| ?\p{{L}}+| ?\p{{N}}+|{PUNCTUATION}|{SPACES}"


def _llama3(
    numbers: str,
    punctuation: str = PUNCTUATION + r"[\r\n]*",
    line_ends: str = LINE_ENDS,
    word: str = WORD_AND_MARK,
    spaces: str = SPACES,
    contractions: str = ENGLISH_ANY_CASE + "|",
) -> str:
    return rf"{contractions}{word}|{numbers}|{punctuation}|{line_ends}|{spaces}"


MARK = r"[^\r\n\p{L}\p{N}]?"
SUFFIX = f"(?:{ENGLISH_ANY_CASE})?"


def _cased(numbers: str, suffix: str, letters: str = r"\p{L}") -> str:
    """Words end where a capital follows a small letter. Letters outside ASCII count as both."""
    capital, small = rf"[{letters}--a-z]", rf"[{letters}--A-Z]"
    return _any_case(numbers, rf"{MARK}{capital}*{small}+{suffix}|{MARK}{capital}+{small}*{suffix}")


def _any_case(numbers: str, word: str = rf"{MARK}[\p{{L}}\p{{M}}]+{SUFFIX}") -> str:
    return rf"{word}|{numbers}|{PUNCTUATION}[\r\n/]*|{LINE_ENDS}|{SPACES}"


HAN = (
    r"\u4E00-\u9FFF\u3400-\u4DBF\U00020000-\U0002A6DF\U0002A700-\U0002B73F\U0002B740-\U0002B81F\U0002B820-\U0002CEAF"
    r"\U0002CEB0-\U0002EBEF\uF900-\uFAFF\U0002F800-\U0002FA1F"
)
KIMI = (
    rf"[{HAN}]+|[^\r\n\p{{L}}\p{{N}}]?[^\P{{L}}{HAN}]+(?:{ENGLISH_ANY_CASE})?|\p{{N}}{{1,3}}|"
    rf"{PUNCTUATION}[\r\n]*|{LINE_ENDS}|{SPACES}"
)
CJK_OF_DEEPSEEK = r"[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+"
CJK_AND_KANA = r"[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+"
# Letters with case, as listed in DeepSeek's first tokenizer.
CASED_LETTERS = (
    r"A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF\u0370-\u0373\u0376"
    r"\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F"
    r"\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77"
    r"\u1D79-\u1D9A\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D"
    r"\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4"
    r"\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113\u2115\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139"
    r"\u213C-\u213F\u2145-\u2149\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\uA640-\uA66D"
    r"\uA680-\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-\uFB17\uFF21-\uFF3A"
    r"\uFF41-\uFF5A\U00010400-\U0001044F\U000104B0-\U000104D3\U000104D8-\U000104FB\U00010C80-\U00010CB2"
    r"\U00010CC0-\U00010CF2\U000118A0-\U000118DF\U0001E900-\U0001E943"
)
DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{CASED_LETTERS}]+",
    r"\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+",
    r"\s+$",
    CJK_OF_DEEPSEEK,
    r"\p{N}+",
)
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK_OF_DEEPSEEK, r"\p{N}")


def _deepseek3(signs: str = r"\p{P}\p{S}", after_signs: str = r"[\r\n]*", line_ends: str = LINE_ENDS) -> str:
    words = rf"[!-/:-@\[-`{{-~][A-Za-z]+|[^\r\n\p{{L}}{signs}]?[\p{{L}}\p{{M}}]+"
    return rf"{words}| ?[{signs}]+{after_signs}|{line_ends}|{SPACES}"


DEEPSEEK_3 = (r"\p{N}{1,3}", CJK_AND_KANA, _deepseek3())
ASIAN_OF_AFMOE = (  # llama.cpp has 8C48 to FAFF; the model's own tokenizer begins at F900, which looks the same
    r"[\u4E00-\u9FFF\u3400-\u4DBF\u8C48-\uFAFF\u3040-\u309F\u30A0-\u30FF\uFF65-\uFF9F\u2F00-\u2FDF\u0E40-\u0E7F"
    r"\u0E80-\u0EFF\u1780-\u17FF\u1000-\u109F\uAA60-\uAA7F\uA9E0-\uA9FF\uAC00-\uD7AF\u1100-\u11FF]+"
)
ASIAN_OF_YOUTU = (
    r"[\uAC00-\uD7A3\u3131-\u318E]+|[\uFF01\u2026\u201C\u201D\u2018\u2019\u2014\uFF1A\uFF1B\uFF0C\u3001-\u303F"
    rf"\uFE30-\uFE4F]+|[\u3105-\u312F]+|{CJK_AND_KANA}"
)
PHRASE_OF_EXAONE = r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+"
SPACES_OF_JAIS = "".join(rf"\s{{{count}}}(?!\S)|" for count in (512, 256, 128, 64, 32, 16, 8, 4, "1,2")) + r"\s"
NEWLINES = r"[^\n]+|\n+"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
PUNCTUATION_OF_FALCON = r"[\p{P}$+<=>^~|`]+"


AT_SPACES = r"(?<=[A-Za-z])(?=[ \n])"  # no pattern matches across this, unless its row says so
AT_NEWLINES = r"(?<=[A-Za-z])(?=\n)"
NOWHERE = r"(?!)"


@dataclass(frozen=True)
class _Cuts:
    """Cuts a piece where the matches of a pattern end, or start with `at_start`, and nowhere else."""

    pattern: str
    at_start: bool = False


# (?r) searches from the end, so that the groups of three digits are counted from the last one.
THOUSANDS = _Cuts(r"(?r)\p{N}{1,3}")


@dataclass(frozen=True)
class _Row:
    """whole_words: a word that is a token is not split, whatever the merges. add_bos, add_separator: defaults for files
    without the key. plain: tokens are plain text with U+2581 for a space. newline_tokens: newlines in a row are one
    token if there is one. words_at_spaces: each U+2581 begins a word, and each line begins with one. place_to_cut:
    where no word reaches across.
    """

    patterns: tuple[str | _Cuts, ...]
    names: str
    whole_words: bool = False
    add_bos: bool = False
    add_separator: bool = False
    plain: bool = False
    newline_tokens: bool = False
    words_at_spaces: bool = False
    place_to_cut: str = AT_SPACES


ROWS = (
    _Row((r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"), "default"),
    _Row(
        (GPT2,),
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert mpt olmo jais trillion "
        "granite-docling exaone4",
    ),
    _Row((GPT2,), "roberta-bpe jina-v1-en jina-v2-code", add_separator=True),
    _Row((r"\p{N}", GPT2), "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2"),
    _Row((PUNCTUATION_OF_FALCON, GPT2, "[0-9][0-9][0-9]"), "falcon"),
    _Row(
        (_llama3(r"\p{N}{1,3}"),),
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        whole_words=True,
        add_bos=True,
    ),
    _Row((_llama3(r"\p{N}{1,3}"),), "dbrx smaug-bpe chatglm-bpe"),
    _Row((_llama3(r"\p{N}{1,3}"),), "glm4 glm5", whole_words=True),
    _Row((r"\p{N}{1,3}", _llama3(r"\p{N}+")), "minicpm5", whole_words=True),
    _Row((_llama3(r"\p{N}{1,3}", spaces=SPACES_OF_JAIS),), "jais-2"),
    _Row(
        (_llama3(r"\p{N}"),),
        "qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan grok-2 kormo f2llmv2 solar-open",
    ),
    _Row((NEWLINES, _llama3(r"\p{N}")), "laguna"),
    _Row((_llama3(r"\p{N}", contractions=""),), "ufakzeka"),
    _Row(
        (
            _llama3(
                r"\p{N}",
                word=r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
                punctuation=r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
            ),
        ),
        "qwen35",
    ),
    _Row(
        (_llama3(r"\p{N}", word=PHRASE_OF_EXAONE, punctuation=PUNCTUATION + r"[\r\n/]?", line_ends=r"\s*[\r\n]"),),
        "exaone-moe",
        place_to_cut=AT_NEWLINES,
    ),
    _Row((_llama3(r"\p{N}", punctuation=r" ?[^\s\p{L}\p{N}\r\n]+"),), "seed-coder"),
    _Row(
        (
            _llama3(
                r"\p{N}",
                line_ends=r"\s*[\r\n]",
                contractions=r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|",
            ),
        ),
        "bailingmoe bailingmoe2 llada-moe",
    ),
    _Row((_cased(r"\p{N}", ""),), "tekken", whole_words=True, add_bos=True),
    _Row((_cased(r"\p{N}{1,3}", SUFFIX),), "gpt-4o llama4 minimax-m2 kanana2 talkie"),
    _Row((_cased(r"\p{N}{1,3}", SUFFIX, r"[\p{L}\p{M}]"),), "granite-embed-multi-97m", whole_words=True),
    _Row((THOUSANDS, _any_case(r"\p{N}{1,3}")), "tiny_aya cohere2moe"),
    _Row((ASIAN_OF_YOUTU, _any_case(r"\p{N}")), "youtu", whole_words=True),
    _Row((KIMI,), "kimi-k2"),
    _Row(DEEPSEEK_LLM, "deepseek-llm"),
    _Row(DEEPSEEK_CODER, "deepseek-coder"),
    _Row(DEEPSEEK_3, "deepseek-v3 joyai-llm hy_v4"),
    # As in Ollama 0.12.11, whose \p{S} lacks the tilde.
    _Row((*DEEPSEEK_3[:2], _deepseek3(r"\p{P}[\p{S}--~]")), "hunyuan-dense"),
    _Row((*DEEPSEEK_3[:2], _deepseek3(after_signs="", line_ends=r"[\r\n]"), r"\p{N}"), "spark2_5"),
    _Row((THOUSANDS, ASIAN_OF_AFMOE, _deepseek3()), "afmoe"),
    _Row((r"\p{N}+", _Cuts(r"(?r)[0-9]{3}", at_start=True)), "superbpe", place_to_cut=NOWHERE),
    _Row((BLOOM,), "poro-chat bloom gpt3-finnish"),
    _Row((BLOOM, r"\p{N}"), "viking"),
    _Row(
        (
            r"<sentinel:[0-9]+>",
            r"(?:IMGIMG)(?:[A-I]{1,4})Z",
            r"[\t\n]|    |  ",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ),
        "chameleon",
        add_bos=True,
    ),
    _Row(
        (NEWLINES,),
        "gemma4 granite-embed-multi-311m",
        add_bos=True,
        plain=True,
        newline_tokens=True,
        place_to_cut=AT_NEWLINES,
    ),
    _Row((NEWLINES,), "sarvam-moe", plain=True, place_to_cut=AT_NEWLINES),
    _Row((r"\S+",), "whitespace", plain=True),
    _Row((NEWLINES,), "mmbert", plain=True, newline_tokens=True, words_at_spaces=True, place_to_cut=AT_NEWLINES),
)
_ROW_OF_NAME = {name: row for row in ROWS for name in row.names.split()}

# As in llama.cpp, patterns see all white space outside ASCII as a vertical tab. The words keep the original characters.
_OTHER_SPACES = r"\x85\xA0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000"
_OTHER_SPACE = regex.compile(f"[{_OTHER_SPACES}]")
WHITE_SPACE = regex.compile(rf"[ \t-\r{_OTHER_SPACES}]+")


class Pretokenizer:
    """Splits texts by the patterns of one row. row: see `_Row`."""

    def __init__(self, row: _Row):
        self.row = row
        self._steps = tuple(_step(pattern) for pattern in row.patterns)

    @classmethod
    def named(cls, name: str | None) -> "Pretokenizer":
        """The row of a name in `tokenizer.ggml.pre`; "default", with a warning, if it is missing or unknown."""
        row = _ROW_OF_NAME.get(name or "")
        if row is None:
            row = _ROW_OF_NAME["default"]
            log.warning(
                "%s pre-tokenizer (tokenizer.ggml.pre); using 'default', which may lower the quality of answers. "
                "Known: %s",
                f"unknown {name!r}" if name else "the file names no",
                ", ".join(sorted(_ROW_OF_NAME)),
            )
        return cls(row)

    def split(self, text: str) -> list[str]:
        """The words of a text; joined, they are the text."""
        seen = _OTHER_SPACE.sub("\v", text)
        pieces = [seen]
        for step in self._steps:
            pieces = [part for piece in pieces for part in step(piece)]
        if seen is text or seen == text:
            return pieces
        words, start = [], 0
        for piece in pieces:
            words.append(text[start : start + len(piece)])
            start += len(piece)
        return words


def _step(pattern: str | _Cuts) -> Callable[[str], list[str]]:
    """A function that splits a piece by one pattern of a row."""
    if isinstance(pattern, _Cuts):
        return partial(_cut_at_edges, regex.compile(pattern.pattern, regex.V1), pattern.at_start)
    return partial(_cut, regex.compile(pattern, regex.V1))


def _cut_at_edges(pattern: regex.Pattern[str], at_start: bool, piece: str) -> list[str]:
    """The parts between the starts (or ends) of the matches in a piece."""
    edges = {match.start() if at_start else match.end() for match in pattern.finditer(piece)}
    bounds = [0, *sorted(edges - {0, len(piece)}), len(piece)]
    return [piece[start:end] for start, end in pairwise(bounds) if start < end]


def _cut(pattern: regex.Pattern[str], piece: str) -> list[str]:
    """The non-empty matches in a piece and the gaps between them, in order."""
    if len(piece) == 1:
        return [piece]
    parts: list[str] = []
    start = 0
    for match in pattern.finditer(piece):
        first, end = match.span()
        if first > start:
            parts.append(piece[start:first])
        if end > first:
            parts.append(piece[first:end])
        start = end
    if start < len(piece):
        parts.append(piece[start:])
    return parts
