"""Finds the built-in Go template that can replace the Jinja template of a GGUF file.

In: an open GGUFFile. Out: BuiltinTemplate or None. Ollama compares edit distance only. Here both templates must also
write the same prompts, because a small edit can be a policy, tools, or a mark that the model was trained on.
"""

from vkbackend.errors import VkbackendError
from vkbackend.gguf.reader import GGUFFile
from vkbackend.tokenizer import Tokenizer

from ..gotemplate import Template, TemplateError, Values, builtin
from .forms import PROBE_TOOL
from .template import JinjaSource, JinjaTemplate


def _conversation(*turns: tuple[str, str]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]


_SYSTEM = _conversation(("system", "Sys."), ("user", "One?"))
_SYSTEM_AND_ANSWER = _conversation(("system", "Sys."), ("user", "One?"), ("assistant", "1"), ("user", "Two?"))
_WITH_SYSTEM = [
    Values(messages=_SYSTEM),
    Values(messages=_SYSTEM_AND_ANSWER),
    Values(messages=_SYSTEM, tools=[PROBE_TOOL]),
    Values(messages=_SYSTEM, think=True, is_think_set=True),
    Values(messages=_SYSTEM, think=False, is_think_set=True),
    Values(
        messages=_conversation(
            ("system", "Sys."), ("user", "One?"), ("assistant", "<think>\nHm.\n</think>\n\n1"), ("user", "Two?")
        )
    ),
]
# Only for templates that reject system messages. Others may add a default system message, which Ollama's do not.
_WITHOUT_SYSTEM = [
    Values(messages=values.messages[1:], tools=values.tools, think=values.think, is_think_set=values.is_think_set)
    for values in _WITH_SYSTEM
]


def builtin_for(gguf: GGUFFile) -> builtin.BuiltinTemplate | None:
    """Return the built-in template closest to the file's template, if both write the same prompts."""
    source = JinjaSource.of(gguf.metadata)
    if source is None:
        return None
    candidate = builtin.closest(source.text)
    if candidate is None:
        return None
    try:
        template = JinjaTemplate.for_tokenizer(source, Tokenizer.from_gguf(gguf))
    except VkbackendError:  # the file has no usable vocabulary; it may still be stored for another model to use
        template = JinjaTemplate(source.text)
    return candidate if _write_the_same(template, Template.parse(candidate.text)) else None


def _write_the_same(jinja_template: JinjaTemplate, go_template: Template) -> bool:
    try:
        jinja_template.execute(Values(messages=_SYSTEM), as_it_is=True)
        conversations = _WITH_SYSTEM
    except TemplateError:
        conversations = _WITHOUT_SYSTEM
    try:
        return all(
            jinja_template.execute(values, as_it_is=True) == go_template.execute(values) for values in conversations
        )
    except TemplateError:
        return False
