"""Texts of many kinds for comparing tokenizers, always the same for one seed."""

import random
import unicodedata

PHRASES = (
    """The quick brown fox jumps over the lazy dog|I'll say you'RE right, they've GONE and we'd know it's John's|naïve café, Zoë's résumé
Übergrößenträger heißen Maßbänder|L'été où j'ai vu l'œuvre d'Anaïs|¿Dónde está el niño? ¡Aquí!|Pójdź, kińże tę chmurność w głąb flaszy
Příliš žluťoučký kůň úpěl ďábelské ódy|Съешь же ещё этих мягких французских булок|Ξεσκεπάζω την ψυχοφθόρα βδελυγμία|Chữ Việt có dấu: nghiêng ngả
我能吞下玻璃而不伤身体。|私はガラスを食べられます。それは私を傷つけません。|나는 유리를 먹을 수 있어요. 그래도 아프지 않아요|ฉันกินกระจกได้ แต่มันไม่ทำให้ฉันเจ็บ
मैं काँच खा सकता हूँ, मुझे उस से कोई पीडा नहीं होती|আমি কাঁচ খেতে পারি|நான் கண்ணாடி சாப்பிடுவேன்|أنا قادر على أكل الزجاج و هذا لا يؤلمني|אני יכול לאכול זכוכית
ខ្ញុំអាចញុំកញ្ចក់បាន|მინას ვჭამ და არა მტკივა|Կրնամ ապակի ուտել|ᚠᛇᚻ᛫ᛒᛦᚦ᛫ᚠᚱᚩᚠᚢᚱ|𐌼𐌰𐌲 𐌲𐌻𐌴𐍃 𐌹̈𐍄𐌰𐌽|İstanbul'da ılık ǅ ﬁ ß ẞ ſ K Å|e\u0301\u0323 a\u0308o\u0302 Z\u0351\u036b\u0343\u036a
👩‍👩‍👧‍👦 👨🏽‍💻🏳️‍🌈 🇩🇪🇫🇷 ☺️✅|🧑🏿‍🚀🦙🦙 1️⃣ #️⃣|😶‍🌫️|①②½ Ⅷ ٣٤٥ १२३ 𝟘𝟙|∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ± √2 ≠ ∞|“quoted” ‘single’ «guillemets» — – … ‰|https://example.org/a?b=c&d=%20#e|user@example.com
def f(x: int) -> str:\\n\\treturn f"{x!r:>10}"  # ok\\n|#include <stdio.h>\\r\\nint main(void) { return 0x1F << 3; }\\r\\n|for (let i = 0; i < n; ++i) { a[i] += `${i}`; }|SELECT * FROM t WHERE a >= 'b''c' -- d
<div class="a">&nbsp;<p>Hi</p></div>|{"key": [1, 2.5e-3, null], "k": "\\\\n"}|$x^2_{i}$ \\\\frac{a}{b}|    if a:\\n        b()\\n\\n\\n\\tc()|a_b-c.d/e\\\\f~g|camelCaseHTTPServer snake_case SCREAMING_CASE 3DModel
3.14159 1,000,000 1e10 0b1010 2024-02-29T12:34:56Z|''''''```````\"\"\"\"......!!!!!!??????|▁under▁score ▁▁ _ __|Ġhello Ċ ĉ Ā""".replace(
        "\n", "|"
    )
    .replace("\\n", "\n")
    .replace("\\t", "\t")
    .replace("\\r", "\r")
    .split("|")
)
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
        return draw.choice(["a", "=", "-", "é", "あ", "🦙", "ab", "xyz", "!", "'", "\n", " "]) * draw.randint(1, 200)

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
