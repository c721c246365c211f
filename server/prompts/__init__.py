"""How prompts are written: Go templates, Jinja templates, built-in renderers, and the choice between them."""
