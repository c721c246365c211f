"""CONTRIBUTING.md lists the files that each kind of addition touches: all of them, and none that is not there."""

import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest
from places import ROOT

SUFFIXES = {".py", ".comp", ".glsl", ".toml", ".html", ".cpp"}
FOLDERS = ("server", "shaders", "vkbackend")


def pages() -> dict[str, tuple[str, set[str]]]:
    """Heading -> (the example that the page names, "" for none; the files that it lists)."""
    found = {}
    for page in re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.M)[1:]:
        heading = page.partition("\n")[0]
        example = re.search(r"^Example: `(.*)`$", page, flags=re.M)
        files = set(re.findall(r"^- `([^`]+)`$", page, flags=re.M))
        if files:
            found[heading] = (example[1] if example else "", files)
    return found


PAGES = pages()


def sources():
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                yield path


def files_naming(example: str) -> set[str]:
    name = re.compile(rf"(?<!\w){re.escape(example)}(?!\w)", re.I)
    return {str(path.relative_to(ROOT)) for path in sources() if name.search(code(path)) or name.search(path.stem)}


@cache
def code(path: Path) -> str:
    """A file's text; of Python, names and strings without comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return text
    kept, begins_line = [], True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_docstring = token.type == tokenize.STRING and begins_line
        if token.type not in (tokenize.COMMENT, tokenize.NL) and not is_docstring:
            kept.append(token.string)
            begins_line = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    return " ".join(kept)


def test_every_kind_of_addition_has_a_page():
    kinds = "op|quantization format|architecture|route|command|environment variable|web page".split("|")
    assert list(PAGES) == [f"Add an {kind}" if kind[0] in "aeo" else f"Add a {kind}" for kind in kinds]


@pytest.mark.parametrize("heading", PAGES)
def test_the_files_of_a_page_are_there(heading):
    assert [path for path in PAGES[heading][1] if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("heading", PAGES)
def test_a_page_lists_every_file_that_names_its_example(heading):
    example, files = PAGES[heading]
    assert example, "a page without an example"
    found = files_naming(example)
    assert found <= files, "files that the page does not list"
    assert len(found) >= len(files) - 1, "files that do not name the example"  # a page's index.html need not
