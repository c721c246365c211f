"""Which texts Go's strings.EqualFold finds equal."""


def fold(text: str) -> str:
    """Equal for texts that strings.EqualFold finds equal: Unicode's simple case folding, character by character."""
    return text.lower() if text.isascii() else "".join(map(_fold, text))


def _fold(character: str) -> str:
    # casefold() is the full folding; where it gives several characters, lower() or the character itself is the simple.
    for folded in (character.casefold(), character.lower()):
        if len(folded) == 1:
            return folded
    return character
