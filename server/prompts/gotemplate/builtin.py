"""Finds the built-in Go template that was written for a given Jinja template.

In: the Jinja text of a GGUF file's `tokenizer.chat_template`. Out: `BuiltinTemplate` or None. The folder `templates`
holds Ollama 0.12.11's files under its licence: Go templates, and in `index.json` the Jinja texts they were written for.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "templates"
MAX_DISTANCE = 99  # edits between the texts, as in Ollama


@dataclass(frozen=True)
class BuiltinTemplate:
    """A template that Ollama ships. text: the Go template. parameters: such as {"stop": [...]}."""

    name: str
    text: str
    parameters: dict


@functools.cache
def _index() -> list[tuple[str, str]]:
    """Return (Jinja text, name of the template written for it) pairs."""
    return [(row["template"], row["name"]) for row in json.loads((FOLDER / "index.json").read_text())]


@functools.cache
def named(name: str) -> BuiltinTemplate:
    """Return the template with this name. Raises KeyError."""
    parameters = json.loads((FOLDER / "parameters.json").read_text())[name]
    return BuiltinTemplate(name, (FOLDER / f"{name}.gotmpl").read_text(), parameters)


def closest(jinja_text: str) -> BuiltinTemplate | None:
    """Return the template whose Jinja text is closest, the first of several, or None if none is within MAX_DISTANCE.

    Takes milliseconds for any text.
    """
    from rapidfuzz.distance import Levenshtein  # imported on first use: the server starts without it

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
