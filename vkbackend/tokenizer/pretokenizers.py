r"""How byte-level BPE vocabularies split a text into words: one row for each set of names in `tokenizer.ggml.pre`.

In: a text. Out: its words; joined, they are the text. The patterns of a row are applied in turn, each to all pieces so
far: its matches and the gaps between them are the new pieces. The patterns are those of the models' own tokenizers,
with the changes that llama.cpp makes (src/llama-vocab.cpp), because it is the reference for GGUF files: in tekken and
gpt-4o, for example, it only knows ASCII capitals. They are written for the `regex` module, which supports \p{..}.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

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


def _llama3(numbers: str, punctuation: str = PUNCTUATION + r"[\r\n]*", line_ends: str = LINE_ENDS) -> str:
    return rf"{ENGLISH_ANY_CASE}|{WORD_AND_MARK}|{numbers}|{punctuation}|{line_ends}|{SPACES}"


def _cased(numbers: str, suffix: str) -> str:
    """Words end where a capital follows a small letter. Letters outside ASCII count as both."""
    capital, small = r"[^\P{L}a-z]", r"[^\P{L}A-Z]"
    mark = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{mark}{capital}*{small}+{suffix}|{mark}{capital}+{small}*{suffix}"
    return rf"{words}|{numbers}|{PUNCTUATION}[\r\n/]*|{LINE_ENDS}|{SPACES}"


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
DEEPSEEK_3 = (
    r"\p{N}{1,3}",
    CJK_AND_KANA,
    r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + LINE_ENDS + "|" + SPACES,
)
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
PUNCTUATION_OF_FALCON = r"[\p{P}$+<=>^~|`]+"


@dataclass(frozen=True)
class _Row:
    """whole_words: a word that is a token is not split, whatever the merges. add_bos: default for files without the
    key.
    """

    patterns: tuple[str, ...]
    names: str
    whole_words: bool = False
    add_bos: bool = False


ROWS = (
    _Row((r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"), "default"),
    _Row(
        (GPT2,),
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert jina-v1-en jina-v2-code "
        "roberta-bpe mpt olmo jais trillion granite-docling exaone4",
    ),
    _Row((r"\p{N}", GPT2), "starcoder refact command-r smollm codeshell exaone minerva-7b"),
    _Row((PUNCTUATION_OF_FALCON, GPT2, "[0-9][0-9][0-9]"), "falcon"),
    _Row(
        (_llama3(r"\p{N}{1,3}"),),
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2",
        whole_words=True,
        add_bos=True,
    ),
    _Row((_llama3(r"\p{N}{1,3}"),), "dbrx smaug-bpe glm4 chatglm-bpe"),
    _Row((_llama3(r"\p{N}"),), "qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan grok-2"),
    _Row((_llama3(r"\p{N}", punctuation=r" ?[^\s\p{L}\p{N}\r\n]+"),), "seed-coder"),
    _Row(
        (
            r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|"
            + _llama3(r"\p{N}", line_ends=r"\s*[\r\n]").removeprefix(ENGLISH_ANY_CASE + "|"),
        ),
        "bailingmoe bailingmoe2 llada-moe",
    ),
    _Row((_cased(r"\p{N}", ""),), "tekken", whole_words=True, add_bos=True),
    _Row((_cased(r"\p{N}{1,3}", f"(?:{ENGLISH_ANY_CASE})?"),), "gpt-4o llama4 minimax-m2"),
    _Row((KIMI,), "kimi-k2"),
    _Row(DEEPSEEK_LLM, "deepseek-llm"),
    _Row(DEEPSEEK_CODER, "deepseek-coder"),
    _Row(DEEPSEEK_3, "deepseek-v3 hunyuan-dense"),
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
)
_ROW_OF_NAME = {name: row for row in ROWS for name in row.names.split()}

# As in llama.cpp, patterns see all white space outside ASCII as a vertical tab. The words keep the original characters.
_OTHER_SPACE = regex.compile(r"[\x85\xA0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000]")


class Pretokenizer:
    """Splits texts by the patterns of one row. whole_words, add_bos: see `_Row`."""

    def __init__(self, row: _Row):
        self._patterns = tuple(regex.compile(pattern) for pattern in row.patterns)
        self.whole_words = row.whole_words
        self.add_bos = row.add_bos

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
        for pattern in self._patterns:
            pieces = [part for piece in pieces for part in _cut(pattern, piece)]
        if seen is text or seen == text:
            return pieces
        words, start = [], 0
        for piece in pieces:
            words.append(text[start : start + len(piece)])
            start += len(piece)
        return words


def _cut(pattern: regex.Pattern[str], piece: str) -> Iterator[str]:
    """The non-empty matches in a piece and the gaps between them, in order."""
    start = 0
    for match in pattern.finditer(piece):
        first, end = match.span()
        if first > start:
            yield piece[start:first]
        if end > first:
            yield piece[first:end]
        start = end
    if start < len(piece):
        yield piece[start:]
