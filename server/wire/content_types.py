"""Content types of JSON answers: Ollama has one of gin and one of its own."""

JSON = "application/json; charset=utf-8"  # gin's
PLAIN_JSON = "application/json"
