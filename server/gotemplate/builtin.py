"""The templates Ollama ships, and which of them stands for the jinja text of a GGUF's `tokenizer.chat_template`.

In: jinja text. Out: (name, template text, parameters) or None. Two ways to match, the surer one first: the built-in template that
writes the same prompts as the jinja text for a few conversations; else the one whose role markers all stand in the jinja text.
(Ollama compares the jinja texts themselves by edit distance with those its templates were written for.)
"""

import functools
import json
from pathlib import Path

from . import probe
from .template import Template, Values

FOLDER = Path(__file__).parent / "templates"
MAX_JINJA_CHARS = 100_000  # a text longer than this is not worth running
END_TOKENS = ["</s>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end_of_turn|>", "<|end|>", "<step>"]


def _conversation(*turns):
    return [{"role": role, "content": content} for role, content in turns]


# A system text comes first where it is allowed at all, for some templates make one up when there is none.
PROBES = [
    _conversation(("system", "Sys."), ("user", "One?")),
    _conversation(("system", "Sys."), ("user", "One?"), ("assistant", "1"), ("user", "Two?")),
    _conversation(("user", "One?"), ("assistant", "1"), ("user", "Two?")),
]


@functools.cache
def _index() -> list[dict]:
    rows = json.loads((FOLDER / "index.json").read_text())
    for row in rows:
        row["text"] = (FOLDER / f"{row['name']}.gotmpl").read_text()
    return rows


@functools.cache
def _prompts(name) -> list[str]:
    template = Template.parse(next(row["text"] for row in _index() if row["name"] == name))
    return [template.execute(Values(messages=probe)).strip() for probe in PROBES]


def match(jinja_text: str) -> tuple[str, str, dict] | None:
    """The built-in template for a GGUF's chat template: (name, Go template, parameters such as {"stop": [...]})."""
    if not jinja_text or len(jinja_text) > MAX_JINJA_CHARS:
        return None
    row = _by_prompts(jinja_text) or _by_markers(jinja_text)
    return (row["name"], row["text"], row["parameters"]) if row else None


def _by_prompts(jinja_text):
    """The first template that agrees in every conversation that the jinja text accepts, or in those with a system text."""
    for rendered in probe.run(jinja_text, END_TOKENS, PROBES) or ():
        prompts = [None if prompt is None else prompt.strip() for prompt in rendered]
        accepted = [prompt is not None for prompt in prompts]
        for row in _index() if any(accepted) else ():
            agreed = [prompt == known for prompt, known in zip(prompts, _prompts(row["name"]))]
            if agreed == accepted or (agreed[0] and agreed[1]):
                return row
    return None


def _by_markers(jinja_text):
    fitting = [row for row in _index() if row["markers"] and all(marker in jinja_text for marker in row["markers"])]
    return max(fitting, key=lambda row: sum(map(len, row["markers"])), default=None)
