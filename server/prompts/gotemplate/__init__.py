"""Ollama's prompt templates: Go's text/template with Ollama's functions. See template.py for how they are used."""

from .parser import TemplateError
from .template import Template, Values

__all__ = ["Template", "TemplateError", "Values"]
