"""Capabilities of a stored model: `completion`, `embedding`, `vision`, `tools`, `insert`, `thinking`.

In: a StoredModel and its GGUF's metadata. Out: names in the order in which clients are shown them. Detected as in
Ollama: from keys of the file, variables of the template, text around `.Thinking` in it, and what a built-in output
parser extracts. If the model has a Jinja template instead, that is searched for the same. A model without a Go template
can also `insert` if its file has the tokens for it.
"""

from vkbackend.gguf.reader import Metadata

from .. import output_parsers
from ..prompts import infill, jinja
from ..prompts.gotemplate import Template, TemplateError
from ..prompts.marks import thinking_tags
from .model import StoredModel

_THINKING_FAMILIES = ("gptoss", "gpt-oss")


def capabilities(model: StoredModel, metadata: Metadata | None) -> list[str]:
    """Names of the capabilities. metadata: of the model's GGUF file; None if it has none (a remote model)."""
    found: list[str] = []
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
    calls_tools, thinks = output_parsers.knowledge(parser) if parser else (False, False)
    source = jinja.found_in(model, metadata)
    if source is not None:
        calls_tools = calls_tools or jinja.knows_tools(source.with_tools)
        thinks = thinks or all(jinja.thinking_tags(source.text))
    thinks = thinks or model.config.get("model_family") in _THINKING_FAMILIES or all(thinking_tags(template))
    more = [
        ("tools", "tools" in variables or calls_tools),
        ("insert", "suffix" in variables or infill.marks_of(model, metadata) is not None),
        ("vision", bool(model.projector_paths)),
        ("thinking", thinks),
    ]
    return found + [name for name, holds in more if holds and name not in found]
