"""Prompts that ask for the middle of a text, for models without a Go template. In: a model file's tokens for it.

Models with a Go template use its `.Suffix`, as in Ollama.
"""

from dataclasses import dataclass

from vkbackend.gguf.reader import Metadata
from vkbackend.tokenizer.fill_in_the_middle import fill_in_the_middle

from . import ModelTexts


@dataclass(frozen=True)
class InfillMarks:
    """Texts of the tokens before the text that comes first, before that which comes last, and before the answer."""

    prefix: str
    suffix: str
    middle: str

    def prompt(self, before: str, after: str) -> str:
        """The prompt for a text between `before` and `after`."""
        return self.prefix + before + self.suffix + after + self.middle


def marks_of(stored: ModelTexts, metadata: Metadata | None) -> InfillMarks | None:
    """The marks of a stored model. None: it has a Go template, or its file lacks one of the tokens.

    metadata: the metadata of its GGUF file, if it has one.
    """
    if metadata is None or stored.has_template:
        return None
    texts = fill_in_the_middle(metadata)
    return None if texts is None else InfillMarks(*texts)
