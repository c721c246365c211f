"""What a stored model can do: `completion`, `embedding`, `vision`, `tools`, `insert`, `thinking`.

In: a StoredModel and its GGUF's metadata. Out: names in the order in which clients are shown them. Found as Ollama
finds them: keys of the file, variables of the template, text around `.Thinking` in it, and what a built-in parser of
answers finds; a Jinja template in its place is looked through for the same.
"""

from .. import output_parsers
from ..prompts import jinja
from ..prompts.gotemplate import Template, TemplateError
from ..prompts.marks import thinking_tags

_THINKING_FAMILIES = ("gptoss", "gpt-oss")


def capabilities(model, metadata) -> list[str]:
    """`metadata` is that of the model's GGUF file, or None where there is none (a model run elsewhere)."""
    found = []
    if metadata is not None:
        architecture = metadata.get("general.architecture", None, "unknown")
        found.append("embedding" if f"{architecture}.pooling_type" in metadata else "completion")
        if f"{architecture}.vision.block_count" in metadata:
            found.append("vision")
    found += [name for name in model.config.get("capabilities") or [] if name not in found]
    try:
        template = Template.parse(model.template)
    except TemplateError:
        return found
    variables = template.vars()
    parser = output_parsers.name_of(model)
    reads_calls, reads_thoughts = output_parsers.knowledge(parser) if parser else (False, False)
    source = jinja.found_in(model, metadata)
    if source is not None:
        reads_calls, reads_thoughts = (
            reads_calls or jinja.knows_tools(source.with_tools),
            reads_thoughts or all(jinja.thinking_tags(source.text)),
        )
    more = [
        ("tools", "tools" in variables or reads_calls),
        ("insert", "suffix" in variables),
        ("vision", bool(model.projector_paths)),
        (
            "thinking",
            model.config.get("model_family") in _THINKING_FAMILIES or all(thinking_tags(template)) or reads_thoughts,
        ),
    ]
    return found + [name for name, holds in more if holds and name not in found]
