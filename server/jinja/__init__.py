"""A GGUF file's own chat template, in Jinja, where a model has no Go template: code that somebody sent, hence run in a process of its own."""

from .template import JinjaTemplate, Source, found_in, knows_tools, thinking_tags, tool_tag

__all__ = ["JinjaTemplate", "Source", "found_in", "knows_tools", "thinking_tags", "tool_tag"]
