"""Case folding of Go's strings.EqualFold."""


def fold(text: str) -> str:
    """Fold case so that two texts are equal if strings.EqualFold says so (Unicode's simple case folding)."""
    return text.lower() if text.isascii() else "".join(map(_fold, text))


def _fold(character: str) -> str:
    # casefold() is the full folding; if it gives several characters, the simple one is lower() or the character itself.
    for folded in (character.casefold(), character.lower()):
        if len(folded) == 1:
            return folded
    return character
