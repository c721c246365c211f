"""Breaks a streamed text between words, as Ollama's `run` does: five columns before the edge of the terminal the word
that does not fit is taken back and written again on the next line.

In: characters with their colours, and the terminal's width. Out: what is to be written, with colours; moves of the
cursor have none.
"""

from typing import TypeVar

from rich.cells import get_character_cell_size

MARGIN = 5  # columns at the end of a line that stay free
LEAST_WIDTH = 10  # narrower terminals break lines themselves
# Columns less than the terminal: longer words are the terminal's to break, so that a URL stays whole when it is copied.
LONGEST_WORD = 10
TAB = 8

Style = TypeVar("Style")


class WordWrap:
    """Knows the cursor's column and the word that is being written."""

    def __init__(self):
        self._column = 0
        self._word: list[tuple[str, Style]] = []
        self._is_long = False  # the word is too long to be taken back

    def feed(self, text: str, style: Style, width: int) -> list[tuple[str, Style | None]]:
        """-> pieces to be written. width: of the terminal, which may change; 0 where it is not known."""
        if width < LEAST_WIDTH:
            return [(text, style)]
        pieces: list[tuple[str, Style | None]] = []
        for character in text:
            pieces += self._add(character, style, width)
        return _joined(pieces)

    def _add(self, character: str, style: Style, width: int) -> list[tuple[str, Style | None]]:
        if character == "\n":
            self.__init__()
            return [(character, style)]
        before: list[tuple[str, Style | None]] = []
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
        if character in " \t" or size >= 2:  # a line may end behind each wide character
            self._word = []
        elif not self._is_long:
            self._word.append((character, style))
        return [*before, (character, style)]


def _joined(pieces: list[tuple[str, Style | None]]) -> list[tuple[str, Style | None]]:
    """Neighbours of one colour as one piece."""
    joined: list[tuple[str, Style | None]] = []
    for text, style in pieces:
        if joined and joined[-1][1] == style:
            joined[-1] = (joined[-1][0] + text, style)
        else:
            joined.append((text, style))
    return joined
