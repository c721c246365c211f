"""Wraps streamed text between words, as Ollama's `run` does.

A word that reaches five columns before the edge of the terminal is erased and written again on the next line. In:
characters with a style, and the terminal's width. Out: pieces to write with their styles; cursor movements have none.
"""

from typing import TypeAlias

from rich.cells import get_character_cell_size

MARGIN = 5  # free columns at the end of a line
LEAST_WIDTH = 10  # text is not wrapped on narrower terminals
# A word longer than the width less this is left to the terminal to wrap, so that a URL can be copied in one piece.
LONGEST_WORD = 10
TAB = 8

Style: TypeAlias = float | None  # a token's probability


class WordWrap:
    """Tracks the cursor's column and the current word."""

    def __init__(self):
        self._column = 0
        self._word: list[tuple[str, Style]] = []
        self._is_long = False  # the word is too long to move

    def feed(self, text: str, style: Style, width: int) -> list[tuple[str, Style]]:
        """Return the pieces to write. width: current columns of the terminal; 0 if unknown."""
        if width < LEAST_WIDTH:
            return [(text, style)]
        pieces: list[tuple[str, Style]] = []
        for character in text:
            pieces += self._add(character, style, width)
        return _joined(pieces)

    def _add(self, character: str, style: Style, width: int) -> list[tuple[str, Style]]:
        if character == "\n":
            self.__init__()
            return [(character, style)]
        before: list[tuple[str, Style]] = []
        size = get_character_cell_size(character)
        if self._column + 1 > width - MARGIN and not self._is_long:
            taken_back = sum(get_character_cell_size(each) for each, _ in self._word)
            self._is_long = taken_back > width - LONGEST_WORD
            if not self._is_long:
                before = [((f"\x1b[{taken_back}D" if taken_back else "") + "\x1b[K\n", None), *self._word]
                self._column = taken_back
        self._column += TAB - self._column % TAB if character == "\t" else size
        if self._is_long:
            self._column %= width
        if character in " \t":
            self._is_long = False
        if character in " \t" or size >= 2:  # a line may end after each wide character
            self._word = []
        elif not self._is_long:
            self._word.append((character, style))
        return [*before, (character, style)]


def _joined(pieces: list[tuple[str, Style]]) -> list[tuple[str, Style]]:
    """Join neighbours of one style."""
    joined: list[tuple[str, Style]] = []
    for text, style in pieces:
        if joined and joined[-1][1] == style:
            joined[-1] = (joined[-1][0] + text, style)
        else:
            joined.append((text, style))
    return joined
