"""The chat template in a GGUF file, written in Jinja, for models without a Go template.

A Jinja template is untrusted code, so it runs in a separate process.
"""

from .builtin_match import builtin_for
from .tags import answer_marks, knows_tools, thinking_tags
from .template import JinjaSource, JinjaTemplate, found_in

__all__ = ["JinjaSource", "JinjaTemplate", "builtin_for", "found_in", "answer_marks", "knows_tools", "thinking_tags"]
