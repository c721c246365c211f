"""How prompts are written: Go templates, Jinja templates, built-in renderers, and the choice between them."""

from functools import cached_property
from typing import Protocol


class ModelTexts(Protocol):
    """What prompts and output parsers need of a stored model (`library.model.StoredModel`, a layer above this one).

    config: the config blob. template: the Go template. has_template: the model was created with one.
    """

    @cached_property
    def config(self) -> dict:
        """The config blob, which may name a renderer and a parser."""
        ...

    @cached_property
    def template(self) -> str:
        """The Go template, or the default one."""
        ...

    @property
    def has_template(self) -> bool:
        """Whether the model has a Go template of its own."""
        ...
