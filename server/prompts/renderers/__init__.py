"""Built-in prompt formats that a model's config names (RENDERER in a Modelfile). In: Values. Out: text."""

from collections.abc import Callable
from functools import partial

from ..gotemplate import TemplateError, Values
from . import qwen3_coder, qwen3_vl

_RENDERERS = {
    "qwen3-coder": qwen3_coder.render,
    "qwen3-vl-instruct": partial(qwen3_vl.render, thinks=False),
    "qwen3-vl-thinking": partial(qwen3_vl.render, thinks=True),
}


class Renderer:
    """A built-in format with the interface of a template. marks_images: it places the images itself."""

    marks_images = True

    def __init__(self, render: Callable[[Values], str]):
        self._render = render

    def execute(self, values: Values) -> str:
        """Write the prompt."""
        return self._render(values)


def named(name: str) -> Renderer:
    """Return the renderer with this name. Raises TemplateError for an unknown name."""
    if name not in _RENDERERS:
        raise TemplateError(f'unknown renderer "{name}"', "execute")
    return Renderer(_RENDERERS[name])
