"""The OpenAI API: /v1."""

ROUTES = []
