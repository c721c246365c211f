"""Decides how a stored model's prompts are written, and what marks thinking and tool calls in its answers.

The first of these that the model has is used: a renderer named in its config, a Go template, the Jinja template in its
GGUF file.
"""

import functools
from dataclasses import dataclass, replace

from vkbackend.tokenizer import Tokenizer

from . import ModelTexts, jinja, renderers
from .call_format import CallFormat
from .gotemplate import Template
from .marks import tag_of, thinking_tags
from .prompt_text import PromptTemplate


@dataclass(frozen=True)
class PromptStyle:
    """thinking_tags: (opening, closing), empty if thinking is not marked. calls: how tool calls are written.
    answer_marks: special tokens around the content of an answer.
    """

    template: PromptTemplate
    thinking_tags: tuple[str, str]
    calls: CallFormat
    answer_marks: tuple[str, ...] = ()


def style_of(stored: ModelTexts, jinja_source: jinja.JinjaSource | None, tokenizer: Tokenizer) -> PromptStyle:
    """Return the style of a stored model.

    jinja_source: the result of `jinja.found_in` for the model. Raises TemplateError.
    """
    if jinja_source is not None:
        text = jinja_source.text
        template = jinja.JinjaTemplate.for_tokenizer(jinja_source, tokenizer)
        return PromptStyle(template, jinja.thinking_tags(text), template.call_format(), jinja.answer_marks(text))
    style = _go_style(stored.template)
    renderer = stored.config.get("renderer")
    return replace(style, template=renderers.named(renderer)) if renderer else style


@functools.lru_cache(maxsize=64)
def _go_style(text: str) -> PromptStyle:
    """Cached, because parsing a template takes longer than running it."""
    template = Template.parse(text)
    return PromptStyle(template, thinking_tags(template), CallFormat(tag_of(template)))
