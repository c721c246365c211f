"""The marks around an answer, such as Command R7B's."""

import pytest

from vkbackend.server.output_parsers import ThinkingParser, without_marks
from vkbackend.server.prompts.jinja import answer_marks

MARKS = answer_marks("<|CHATBOT_TOKEN|><|START_RESPONSE|>{{ content }}<|END_RESPONSE|>")


def read(parser, text: str, size: int) -> tuple[str, str]:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    parsed = [parser.add(piece) for piece in pieces] + [parser.add("", done=True)]
    return "".join(each.thinking for each in parsed), "".join(each.content for each in parsed)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_marks_are_no_content_however_an_answer_is_cut(size):
    assert read(without_marks(MARKS, None), "<|START_RESPONSE|>a <|b|> c<|END_RESPONSE|>", size) == ("", "a <|b|> c")
    thoughts = ThinkingParser("<|START_THINKING|>", "<|END_THINKING|>")
    answer = "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>yes<|END_RESPONSE|>"
    assert read(without_marks(MARKS, thoughts), answer, size) == ("hm", "yes")


@pytest.mark.parametrize("size", [1, 100])
def test_text_that_only_begins_like_a_mark_is_kept(size):
    assert read(without_marks(MARKS, None), "1 <|START_RES", size) == ("", "1 <|START_RES")


def test_other_templates_have_no_marks():
    assert answer_marks("{{ content }}<|END_RESPONSE|>") == () and without_marks((), None) is None
