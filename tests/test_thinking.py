"""Thoughts taken out of a model's output, chunk by chunk, against what Ollama 0.12.11 gave."""

import pytest
from recorded import check, load
from server.output_parsers.thinking import ThinkingParser


def steps(parser, vector):
    """What a parser gives for each chunk of a vector, in the vector's form."""
    got = []
    for step in vector["steps"]:
        parsed = parser.add(step["chunk"])
        got.append({"chunk": step["chunk"], "content": parsed.content, "thinking": parsed.thinking})
    return got


def test_recorded_chunks():
    check(load("thinking_parser"), lambda vector: (steps(ThinkingParser(vector["opening_tag"], vector["closing_tag"]), vector), vector["steps"]))


@pytest.mark.parametrize("text", ["<think>a</think>b", "no thoughts", " \n<think>\n a\n</think>\n\n b ", "<think>never closed", "<thin", "<think>x</th"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_chunks_do_not_matter_and_nothing_is_lost_at_the_end(text, size):
    def whole(chunks):
        parser = ThinkingParser("<think>", "</think>")
        parts = [parser.add(chunk) for chunk in chunks] + [parser.add("", done=True)]
        return "".join(part.content for part in parts), "".join(part.thinking for part in parts)

    content, thoughts = whole([text])
    assert whole([text[start:start + size] for start in range(0, len(text), size)]) == (content, thoughts)
    bare = text.replace("<think>", "").replace("</think>", "")
    assert "".join((thoughts + content).split()) == "".join(bare.split())


def test_a_prompt_that_ends_with_the_opening_tag():
    parser = ThinkingParser("<think>", "</think>", opened=True)
    first, second = parser.add("\n why"), parser.add("</think>so")
    assert (first.thinking, second.content) == ("why", "so")
