"""The templates that Ollama ships, and the one that was written for a given Jinja text.

In: the Jinja text of a GGUF's `tokenizer.chat_template`. Out: `BuiltinTemplate` or None. The folder `templates` holds
Ollama 0.12.11's own files under its licence: Go templates, and in `index.json` the Jinja texts they were written for.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "templates"
MAX_DISTANCE = 99  # edits between a text and the one that a template was written for, as in Ollama


@dataclass(frozen=True)
class BuiltinTemplate:
    """text: the Go template. parameters: such as {"stop": [...]}."""

    name: str
    text: str
    parameters: dict


@functools.cache
def _index() -> list[tuple[str, str]]:
    """(Jinja text, name of the template that was written for it)"""
    return [(row["template"], row["name"]) for row in json.loads((FOLDER / "index.json").read_text())]


@functools.cache
def named(name: str) -> BuiltinTemplate:
    """The template of that name. Raises KeyError."""
    parameters = json.loads((FOLDER / "parameters.json").read_text())[name]
    return BuiltinTemplate(name, (FOLDER / f"{name}.gotmpl").read_text(), parameters)


def closest(jinja_text: str) -> BuiltinTemplate | None:
    """The template whose Jinja text is the fewest edits away, if that is near enough; of several, the first.

    Takes milliseconds, whatever the text.
    """
    from rapidfuzz.distance import Levenshtein  # on first use: the server starts without it

    best, limit = None, MAX_DISTANCE
    for known, name in _index():
        if abs(len(known) - len(jinja_text)) > limit:
            continue
        distance = Levenshtein.distance(jinja_text, known, score_cutoff=limit)
        if distance <= limit:
            best, limit = name, distance - 1
        if limit < 0:
            break
    return named(best) if best else None
