"""Ollama's prompt templates: Go's text/template with Ollama's functions. template.py describes their use."""

from .parser import TemplateError
from .template import Template, Values

__all__ = ["Template", "TemplateError", "Values"]
