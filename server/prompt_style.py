"""How a stored model's prompts are written, and what marks thoughts and tool calls in its answers: by its Go template."""

from dataclasses import dataclass
from typing import Protocol

from .capabilities import thinking_tags
from .gotemplate import Template, Values
from .output_parsers.tools import tag_of


class PromptTemplate(Protocol):
    def execute(self, values: Values) -> str:
        """The prompt. Raises TemplateError."""
        ...


@dataclass
class PromptStyle:
    """thinking_tags are empty where thoughts are not marked; tool_tag begins a tool call."""

    template: PromptTemplate
    thinking_tags: tuple[str, str]
    tool_tag: str


def style_of(stored) -> PromptStyle:
    """Raises TemplateError."""
    template = Template.parse(stored.template)
    return PromptStyle(template, thinking_tags(template), tag_of(template))
