"""Removes the marks that some models write around an answer, such as Command R7B's <|START_RESPONSE|>."""

from .parsed import OutputParser, Parsed, overlap


class WithoutMarks:
    """Removes `marks` from the content that `parser` finds; None: all text is content."""

    def __init__(self, marks: tuple[str, ...], parser: OutputParser | None):
        self.marks = marks
        self.parser = parser
        self._held = ""  # a beginning of a mark

    def add(self, text: str, done: bool = False) -> Parsed:
        parsed = self.parser.add(text, done) if self.parser else Parsed(text)
        content = self._held + parsed.content
        for mark in self.marks:
            content = content.replace(mark, "")
        num_held = 0 if done else max(overlap(content, mark) for mark in self.marks)
        parsed.content = content[: len(content) - num_held]
        self._held = content[len(content) - num_held :]
        return parsed


def without_marks(marks: tuple[str, ...], parser: OutputParser | None) -> OutputParser | None:
    """The parser, followed by the removal of `marks` if there are any."""
    return WithoutMarks(marks, parser) if marks else parser
