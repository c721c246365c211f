"""How a stored model's prompts are written, and what marks thoughts and tool calls in its answers.

A renderer that the model's config names comes before its Go template, and where it has neither, its file's Jinja
template is taken.
"""

import functools
from dataclasses import dataclass, replace
from typing import Protocol

from . import jinja, renderers
from .gotemplate import Template, Values
from .marks import tag_of, thinking_tags


class PromptTemplate(Protocol):
    def execute(self, values: Values) -> str:
        """The prompt. Raises TemplateError."""
        ...


@dataclass(frozen=True)
class PromptStyle:
    """thinking_tags are empty where thoughts are not marked; tool_tag begins a tool call."""

    template: PromptTemplate
    thinking_tags: tuple[str, str]
    tool_tag: str


def style_of(stored, jinja_source: jinja.Source | None, tokenizer) -> PromptStyle:
    """jinja_source: what `jinja.found_in` says of the model. Raises TemplateError."""
    if jinja_source is not None:
        text = jinja_source.text
        template = jinja.JinjaTemplate.for_tokenizer(jinja_source, tokenizer)
        return PromptStyle(template, jinja.thinking_tags(text), template.call_tag())
    style = _go_style(stored.template)
    renderer = stored.config.get("renderer")
    return replace(style, template=renderers.named(renderer)) if renderer else style


@functools.lru_cache(maxsize=64)
def _go_style(text: str) -> PromptStyle:
    """Parsing takes longer than writing a prompt."""
    template = Template.parse(text)
    return PromptStyle(template, thinking_tags(template), tag_of(template))
