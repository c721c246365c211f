"""A GGUF file's own chat template, in Jinja, where a model has no Go template: code that somebody sent, hence run in
a process of its own.
"""

from .builtin_match import builtin_for
from .tags import knows_tools, thinking_tags
from .template import JinjaTemplate, Source, found_in

__all__ = ["JinjaTemplate", "Source", "builtin_for", "found_in", "knows_tools", "thinking_tags"]
